"""Perturbations of scaled dot-product attention, as it enters the softmax."""

from __future__ import annotations

__all__ = ["Attention", "AttentionCall", "AttentionPerturbation", "ReceivedAttention"]

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from ..denoisers.image_tokens import ImageTokens, rows_in_order
from ..intercept.attention import AttentionBackendError, attend_with
from ..schedule import StepPosition
from ..smoothing import Smoothing
from .perturbation import LayerCall, LayerSite, Perturbation, Probe


@dataclass(frozen=True)
class AttentionCall:
    r"""One softmax attention, $\operatorname{softmax}(Q K^\top c)\, V$, as it enters the softmax.

    Args:
        query: `(B, heads, T, d)`: the image's tokens only.
        key: `(B, heads, S, d)`.
        value: `(B, heads, S, e)`.
        options: The other arguments of `scaled_dot_product_attention`, by name.
        native: That function.
        image: Which of the S keys are the image's; there are T of them.
        position: Where the step is in its schedule.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    options: Mapping[str, Any]
    native: Callable[..., Tensor]
    image: ImageTokens
    position: Callable[[], StepPosition]

    def __call__(self) -> Tensor:
        """The attention itself, `(B, heads, T, e)`."""
        return self.native(self.query, self.key, self.value, **self.options)

    def with_query(self, query: Tensor) -> AttentionCall:
        """The same with another query."""
        return replace(self, query=query)

    def with_key(self, key: Tensor) -> AttentionCall:
        """The same with another key."""
        return replace(self, key=key)

    def smoothed(self, tokens: Tensor, smoothing: Smoothing) -> Tensor:
        """The image's tokens `(B, heads, T, d)` with an operator applied over their grid.

        Raises:
            GridError: If it mixes sequences that are not all in the batch.
        """
        if self._mixes_sequences(smoothing):
            return self.image.fold(smoothing.apply(self.image.unfold(tokens), self.image.grid))
        return smoothing.apply(tokens, self.image.grids[0])

    def makes_uniform(self, smoothing: Smoothing) -> bool:
        """Whether an operator makes all queries of a sequence their mean, and attention equal."""
        return (
            smoothing.is_uniform(self.image.grids[0])
            and not self._mixes_sequences(smoothing)
            and self.treats_queries_alike
        )

    def _mixes_sequences(self, smoothing: Smoothing) -> bool:
        """Whether an operator mixes tokens of different sequences of one sample."""
        # If it mixes none, it is the identity on the grid whose tokens are whole sequences.
        return self.image.folded is not None and not smoothing.is_identity(self.image.grids[1])

    @property
    def treats_queries_alike(self) -> bool:
        """Whether mask and causality are the same for every query."""
        mask = self.options.get("attn_mask")
        return not self.options.get("is_causal") and (mask is None or mask.shape[-2] == 1)


class Attention(NamedTuple):
    """One call of `scaled_dot_product_attention`, of all tokens of a layer.

    Args:
        query: `(B, heads, T, d)`.
        key: `(B, heads, T, d)`.
        value: `(B, heads, T, e)`.
        options: The other arguments, by name.
        native: The function.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    options: Mapping[str, Any]
    native: Callable[..., Tensor]

    def by_place(
        self, site: LayerSite, layer: str
    ) -> Iterator[tuple[list[int], Attention, ImageTokens]]:
        """Rows of the batch in which the image's tokens have the same place, and that place."""
        batch = len(self.query)
        image = site.image_tokens(layer, self.query.shape[-2])
        if isinstance(image.start, int):
            yield list(range(batch)), self, image
            return
        for rows, found in image.by_start(batch):
            tensors = self.query[rows], self.key[rows], self.value[rows]
            yield (
                rows,
                Attention(*tensors, _of_samples(self.options, rows, batch), self.native),
                found,
            )

    def of_image(self, image: ImageTokens, position: Callable[[], StepPosition]) -> AttentionCall:
        """What the image's tokens ask, which have the same place in all rows."""
        where = image.slice
        options = _of_queries(self.options, where)
        query = self.query[..., where, :]
        return AttentionCall(query, self.key, self.value, options, self.native, image, position)


class AttentionPerturbation(Perturbation):
    """A change of scaled dot-product attention.

    Where text and image tokens attend together, only what the image's tokens ask is changed.
    """

    @property
    @override
    def without_softmax(self) -> Perturbation | None:
        return None

    @abstractmethod
    def attend(self, call: AttentionCall) -> Tensor:
        """Perturbed attention, `(B, heads, T, e)`, dtype and device of the query."""

    @override
    def run(self, call: LayerCall) -> Any:
        site = call.site

        def attend(
            query: Tensor,
            key: Tensor,
            value: Tensor,
            options: Mapping[str, Any],
            native: Callable[..., Tensor],
        ) -> Tensor:
            if key.shape[-2] != query.shape[-2]:
                # The same module may attend to something else, too: an IP-Adapter's picture.
                return native(query, key, value, **options)
            whole = Attention(query, key, value, options, native)
            parts = []
            for rows, of_rows, image in whole.by_place(site, call.name):
                parts.append((rows, self._attend(of_rows, image, site.position)))
            return rows_in_order(parts)

        return attend_with(attend, call.call, call.name)

    def _attend(
        self, whole: Attention, image: ImageTokens, position: Callable[[], StepPosition]
    ) -> Tensor:
        perturbed = self.attend(whole.of_image(image, position))
        query, key, value, options, native = whole
        where = image.slice
        if perturbed.shape[-2] == query.shape[-2]:
            return perturbed
        before, _, after = query.tensor_split((where.start, where.stop), dim=-2)
        parts = [perturbed]
        if before.shape[-2]:
            others = _of_queries(options, slice(0, where.start))
            parts.insert(0, native(before, key, value, **others))
        if after.shape[-2]:
            others = _of_queries(options, slice(where.stop, query.shape[-2]))
            parts.append(native(after, key, value, **others))
        return torch.cat(parts, dim=-2)


@dataclass(frozen=True)
class ReceivedAttention(Probe):
    """The attention that every token receives: over all queries, the mean of the heads.

    It keeps `(B, T)` float32, whose mean over the tokens is 1.
    """

    @override
    def run(self, call: LayerCall) -> tuple[Any, Tensor]:
        received: list[Tensor] = []

        def attend(query: Tensor, key: Tensor, value: Tensor, options: Any, native: Any) -> Tensor:
            attended: Tensor = native(query, key, value, **options)
            # Attention of the identity is the map itself, whatever scale and mask are.
            identity = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device)
            weights = native(query, key, identity.expand(*key.shape[:-2], -1, -1), **options)
            received[:] = [weights.float().mean(dim=-3).sum(dim=-2)]
            return attended

        output = attend_with(attend, call.call, call.name)
        return output, received[0]


def _of_samples(options: Mapping[str, Any], rows: list[int], batch: int) -> dict[str, Any]:
    """The options of attention for some rows of the batch."""
    options = dict(options)
    mask = options.get("attn_mask")
    if mask is not None and mask.ndim == 4 and mask.shape[0] == batch:
        options["attn_mask"] = mask[rows]
    return options


def _of_queries(options: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """The options of attention for some of the queries."""
    options = dict(options)
    if options.get("is_causal") and rows.start:
        raise AttentionBackendError(
            "causal attention of text and image together can't be perturbed: which keys a query "
            "sees depends on its place; choose other layers"
        )
    mask = options.get("attn_mask")
    if mask is not None and mask.shape[-2] != 1:
        options["attn_mask"] = mask[..., rows, :]
    return options
