r"""What the second pass changes inside the chosen layers.

A perturbation makes $\tilde s$, the prediction that guidance moves away from, out of the denoiser
that makes $s$. It is told what a layer is about to compute and says what is computed instead; it
knows nothing of methods or model families.
"""

from __future__ import annotations

__all__ = [
    "AttentionCall",
    "AttentionPerturbation",
    "LayerCall",
    "Perturbation",
    "ValuesOnly",
    "enclosing_block",
]

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..denoisers.attention_layer import LayerError, require_softmax
from ..denoisers.image_tokens import ImageTokens, rows_in_order
from ..intercept.attention import AttentionBackendError, attend_with

if TYPE_CHECKING:
    from ..denoisers.attention_layer import SelfAttentionLayer
    from ..schedule.steps import StepPosition
    from ..smoothing.operator import Smoothing


@dataclass(frozen=True)
class LayerCall:
    """One call of a chosen module in the second pass.

    Args:
        name: The name of the layer.
        module: The module.
        forward: Its own forward function.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.
        image_tokens: Of a layer's number of tokens, which are the image's.
        position: Where the step is in its schedule.
        outputs: The names of the module's inputs, in the order in which it returns what became of
            them.
    """

    name: str
    module: nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    image_tokens: Callable[[str, int], ImageTokens]
    position: Callable[[], StepPosition]
    outputs: tuple[str, ...] = ("hidden_states",)

    def input(self, name: str = "hidden_states") -> Any:
        """One of the module's inputs by its name, None if it is not given."""
        if name in self.kwargs:
            return self.kwargs[name]
        place = self._place(name)
        return self.args[place] if place < len(self.args) else None

    def with_input(self, value: Any, name: str = "hidden_states") -> LayerCall:
        """The same call with another input."""
        place = self._place(name)
        if name in self.kwargs or place >= len(self.args):
            return replace(self, kwargs={**self.kwargs, name: value})
        return replace(self, args=(*self.args[:place], value, *self.args[place + 1 :]))

    def __call__(self) -> Any:
        """The call itself."""
        return self.forward(*self.args, **self.kwargs)

    def untouched(self) -> Any:
        """What the module gives if it does nothing: its inputs."""
        inputs = (self.input(name) for name in self.outputs)
        found = tuple(value for value in inputs if value is not None)
        return found if len(found) > 1 else found[0]

    def _place(self, name: str) -> int:
        """Where a positional argument is; the first is hidden_states whatever it is called."""
        parameters = list(inspect.signature(type(self.module).forward).parameters)[1:]
        return parameters.index(name) if name in parameters else 0


class Perturbation(ABC):
    """A change of what the chosen layers compute."""

    def modules(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> Mapping[nn.Module, str]:
        """The modules whose calls are changed, and the layer that each belongs to.

        Args:
            denoiser: The denoiser, not compiled.
            layers: The chosen layers. By default their attention modules are changed.
        """
        return {layer.module: layer.name for layer in layers}

    @abstractmethod
    def run(self, call: LayerCall) -> Any:
        """What the module gives in the second pass."""

    @property
    def is_identity(self) -> bool:
        """Whether nothing is changed, so that there is nothing to guide away from."""
        return False

    @property
    def without_softmax(self) -> Perturbation | None:
        """What stands for it in layers that don't compute softmax(QK^T)V; None if nothing can."""
        return self

    def on(self, layers: Sequence[SelfAttentionLayer]) -> Perturbation:
        """The perturbation of these layers: itself, or what stands for it in some of them.

        Raises:
            LayerError: If one of them has no softmax(QK^T), and it needs that.
        """
        substitute = self.without_softmax
        if substitute is self:
            return self
        if substitute is None:
            require_softmax(layers)
            return self
        return _ByLayer({layer.name: self if layer.softmax else substitute for layer in layers})


@dataclass(frozen=True)
class _ByLayer(Perturbation):
    """A perturbation for each layer, of the same modules."""

    parts: Mapping[str, Perturbation]

    def run(self, call: LayerCall) -> Any:
        """See `Perturbation.run`."""
        return self.parts[call.name].run(call)


@dataclass(frozen=True)
class ValuesOnly(Perturbation):
    """Attention whose map is the identity: the values pass through to the output projection.

    It is for attention of the image's tokens alone, of any kind.
    """

    def run(self, call: LayerCall) -> Any:
        """See `Perturbation.run`."""
        module: Any = call.module
        tokens: Tensor = module.to_v(call.input())
        for layer in module.to_out:
            tokens = layer(tokens)
        # Linear attention clips what half precision can't hold, instead of giving infinity.
        limits = torch.finfo(tokens.dtype)
        return tokens.clamp(limits.min, limits.max)


def enclosing_block(denoiser: nn.Module, layer: SelfAttentionLayer) -> nn.Module:
    """The transformer block that a layer's self-attention is part of.

    Raises:
        LayerError: If it is in none.
    """
    block = denoiser.get_submodule(layer.name.rpartition(".")[0])
    if isinstance(block, nn.ModuleList):
        raise LayerError(
            f"layers: {layer.name} is attention by itself and not part of a transformer block; "
            "expected layers of transformer blocks"
        )
    return block


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
        # On a grid of the sequences alone, each a single token, it is the identity if it does not.
        return self.image.folded is not None and not smoothing.is_identity(self.image.grids[1])

    @property
    def treats_queries_alike(self) -> bool:
        """Whether mask and causality are the same for every query."""
        mask = self.options.get("attn_mask")
        return not self.options.get("is_causal") and (mask is None or mask.shape[-2] == 1)


class AttentionPerturbation(Perturbation):
    """A change of scaled dot-product attention.

    Where text and image tokens attend together, only what the image's tokens ask is changed.
    """

    @property
    def without_softmax(self) -> Perturbation | None:
        """See `Perturbation.without_softmax`."""
        return None

    @abstractmethod
    def attend(self, call: AttentionCall) -> Tensor:
        """Perturbed attention, `(B, heads, T, e)`, dtype and device of the query."""

    def run(self, call: LayerCall) -> Any:
        """See `Perturbation.run`."""

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
            batch = query.shape[0]
            parts = []
            for rows, image in call.image_tokens(call.name, query.shape[-2]).by_start(batch):
                tensors = query, key, value
                given = options
                if len(rows) < batch:
                    tensors = query[rows], key[rows], value[rows]
                    given = _of_samples(options, rows, batch)
                parts.append((rows, self._attend(tensors, given, native, image, call.position)))
            return rows_in_order(parts)

        return attend_with(attend, call.module, call.forward, call.args, call.kwargs, call.name)

    def _attend(
        self,
        tensors: tuple[Tensor, Tensor, Tensor],
        options: Mapping[str, Any],
        native: Callable[..., Tensor],
        image: ImageTokens,
        position: Callable[[], StepPosition],
    ) -> Tensor:
        query, key, value = tensors
        where = image.slice
        of_image = AttentionCall(
            query[..., where, :], key, value, _of_rows(options, where), native, image, position
        )
        perturbed = self.attend(of_image)
        if perturbed.shape[-2] == query.shape[-2]:
            return perturbed
        before, _, after = query.tensor_split((where.start, where.stop), dim=-2)
        parts = [perturbed]
        if before.shape[-2]:
            others = _of_rows(options, slice(0, where.start))
            parts.insert(0, native(before, key, value, **others))
        if after.shape[-2]:
            others = _of_rows(options, slice(where.stop, query.shape[-2]))
            parts.append(native(after, key, value, **others))
        return torch.cat(parts, dim=-2)


def _of_samples(options: Mapping[str, Any], rows: list[int], batch: int) -> dict[str, Any]:
    """The options of attention for some rows of the batch."""
    options = dict(options)
    mask = options.get("attn_mask")
    if mask is not None and mask.ndim == 4 and mask.shape[0] == batch:
        options["attn_mask"] = mask[rows]
    return options


def _of_rows(options: Mapping[str, Any], rows: slice) -> dict[str, Any]:
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
