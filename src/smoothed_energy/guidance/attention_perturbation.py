"""Perturbations of scaled dot-product attention, as it enters the softmax."""

from __future__ import annotations

__all__ = ["AttentionCall", "AttentionPerturbation", "ReceivedAttention", "by_place", "of_image"]

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..denoisers.cfg_batch import relates_rows
from ..denoisers.image_tokens import ImageTokens, rows_in_order
from ..intercept.attention import Attention, AttentionBackendError, LayerAttention, attend_with
from ..intercept.attention_slices import of_blocks, of_slices, together
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
        image: Which of all queries are the image's; there are T of them. If the layer's keys are of
            the same tokens, it is their place among the keys, too.
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


def by_place(
    attention: Attention, site: LayerSite, layer: str
) -> Iterator[tuple[list[int], Attention, ImageTokens]]:
    """Rows of an attention in which the image's tokens have the same place, and that place.

    Raises:
        AttentionBackendError: If rows differ in that, and heads lie among them.
    """
    query, key, value, options, native = attention
    batch = len(query)
    image = site.image_tokens(layer, attention.queries)
    if isinstance(image.start, int):
        yield list(range(batch)), attention, image
        return
    if query.ndim != 4:
        raise AttentionBackendError(
            f"layer {layer!r} has queries of shape {tuple(query.shape)}; expected (B, heads, T, "
            "d), since the image's place differs from row to row"
        )
    for rows, found in image.by_start(batch):
        of_rows = _of_samples(options, rows, batch)
        yield rows, Attention(query[rows], key[rows], value[rows], of_rows, native), found


def of_image(
    whole: Attention, image: ImageTokens, position: Callable[[], StepPosition]
) -> AttentionCall:
    """What the image's tokens ask, which have the same place in all rows."""
    where = image.slice
    options = _of_queries(whole.options, where)
    query = whole.query[..., where, :]
    return AttentionCall(query, whole.key, whole.value, options, whole.native, image, position)


class AttentionPerturbation(Perturbation):
    """A change of scaled dot-product attention.

    Where text and image tokens attend together, only what the image's tokens ask is changed.

    Attributes:
        needs_own_keys: Whether keys must be of the same tokens as the queries. Layers whose keys
            are others (every second token's, a reference's as well) are refused then.
    """

    needs_own_keys: ClassVar[bool] = True

    @property
    @override
    def without_softmax(self) -> Perturbation | None:
        return None

    @abstractmethod
    def attend(self, call: AttentionCall) -> Tensor:
        """Perturbed attention, `(B, heads, T, e)`, dtype and device of the query."""

    @override
    def run(self, call: LayerCall) -> Any:
        found = LayerAttention(call.call, call.name, own_keys=self.needs_own_keys)
        if self.needs_own_keys:
            _refuse_other_rows(call, found)

        def attend(attention: Attention) -> Tensor:
            return self._whole(attention, call) if found.takes(attention) else attention()

        output = attend_with(attend, call.call, call.name)
        if found.noted:
            return self._in_slices(found, call)
        found.check()
        return output

    def _in_slices(self, found: LayerAttention, call: LayerCall) -> Any:
        """What the module gives if its queries come in slices: a second call of it, all known."""
        groups, wholes = [[one] for one in found.noted], None
        if call.site.attends_in_blocks:
            wholes = of_blocks(found, own_keys=self.needs_own_keys)
        if wholes is None:
            groups = together(found)
            wholes = of_slices(found, groups)
        answers: list[Tensor | None] = []
        for group, whole in zip(groups, wholes, strict=True):
            if whole is None:
                answers.extend([None] * len(group))
            else:
                sizes = [one.queries for one in group]
                answers.extend(torch.split(self._whole(whole, call), sizes, dim=-2))
        given: list[Attention] = []

        def attend(attention: Attention) -> Tensor:
            given.append(attention)
            answer = answers[len(given) - 1] if len(given) <= len(answers) else None
            return attention() if answer is None else answer

        output = attend_with(attend, call.call, call.name)
        if len(given) != len(answers):
            raise found.refusal("attends in another way when it is called again")
        return output

    def _whole(self, whole: Attention, call: LayerCall) -> Tensor:
        """The layer's self-attention, perturbed."""
        parts = []
        for rows, of_rows, image in by_place(whole, call.site, call.name):
            parts.append((rows, self._attend(of_rows, image, call.position)))
        return rows_in_order(parts)

    def _attend(
        self, whole: Attention, image: ImageTokens, position: Callable[[], StepPosition]
    ) -> Tensor:
        perturbed = self.attend(of_image(whole, image, position))
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
        found = LayerAttention(call.call, call.name, own_keys=True)
        _refuse_other_rows(call, found)
        maps: list[tuple[Attention, Tensor]] = []

        def attend(attention: Attention) -> Tensor:
            if found.takes(attention) or found.noted:
                maps.append((attention, _received(attention)))
            return attention()

        output = attend_with(attend, call.call, call.name)
        groups = together(found)
        if groups:
            own = of_slices(found, groups)
            members = [one for one, group in zip(own, groups, strict=True) for _ in group]
            maps = [item for item, whole in zip(maps, members, strict=True) if whole is not None]
        found.check()
        for attention, _ in maps:
            if found.is_window(attention):
                # How windows lie is not known, and this says so.
                _ = call.image_tokens(call.name, attention.queries).grid
        return output, _all_received(maps, found)


def _refuse_other_rows(call: LayerCall, found: LayerAttention) -> None:
    """Refuse processors that are known to take keys of other rows, which may be as many."""
    if relates_rows(type(getattr(call.module, "processor", None))):
        raise found.refusal("has keys of other rows of the batch, where this method needs its own")


def _received(attention: Attention) -> Tensor:
    """The attention that keys receive over all queries, by head, `(B, heads, S)`, float32."""
    query, key, value, options, native = attention
    # Attention of the identity is the map itself, whatever scale and mask are.
    identity = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device)
    weights: Tensor = native(query, key, identity.expand(*key.shape[:-2], -1, -1), **options)
    return weights.float().sum(dim=-2)


def _all_received(maps: Sequence[tuple[Attention, Tensor]], found: LayerAttention) -> Tensor:
    """The attention that every token receives, `(B, S)`, from slices of queries, heads or rows.

    Raises:
        AttentionBackendError: If the slices can't be put together.
    """
    rows, heads = found.rows, Fraction(0)
    parts: list[Tensor] = []
    for attention, received in maps:
        by_head = received
        if received.ndim == 2:
            by_head = received.reshape(rows or 1, -1, received.shape[-1])
        parts.append(by_head.sum(dim=-2))
        if parts[-1].shape[-1] != parts[0].shape[-1]:
            raise found.refusal(
                "attends row by row to different numbers of keys, which make no map"
            )
        heads += Fraction(attention.queries * by_head.shape[-2], by_head.shape[-1])
    if all(len(part) == len(parts[0]) == (rows or len(part)) for part in parts):
        return torch.stack(parts).sum(dim=0) / float(heads)
    if sum(len(part) for part in parts) == rows:
        return torch.cat(parts) / float(heads / len(parts))
    raise found.refusal("attends in slices of rows and heads, whose map can't be put together")


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
