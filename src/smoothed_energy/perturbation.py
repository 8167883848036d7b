r"""What the second pass changes inside the chosen layers.

A perturbation makes $\tilde s$, the prediction that guidance moves away from, out of the denoiser
that makes $s$. It is told what a layer is about to compute and says what is computed instead; it
knows nothing of methods or model families.
"""

from __future__ import annotations

__all__ = [
    "AttentionCall",
    "AttentionPerturbation",
    "ImageTokens",
    "LayerCall",
    "Perturbation",
    "enclosing_block",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .attention import AttentionBackendError, attend_with
from .layers import LayerError

if TYPE_CHECKING:
    from .layers import SelfAttentionLayer
    from .steps import StepPosition


@dataclass(frozen=True)
class ImageTokens:
    """Which of a layer's tokens are the image's, and how they lie.

    Args:
        grid: Their layout, `(H, W)` or `(F, H, W)`, row-major.
        start: The number of tokens before the first of them.
    """

    grid: tuple[int, ...]
    start: int = 0

    @property
    def slice(self) -> slice:
        """Their place among the tokens."""
        return slice(self.start, self.start + math.prod(self.grid))


@dataclass(frozen=True)
class LayerCall:
    """One call of a chosen module in the second pass.

    Args:
        name: The name of the layer.
        module: The module.
        forward: Its own forward function.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.
        image_tokens: Of a number of tokens, which are the image's.
        position: Where the step is in its schedule.
    """

    name: str
    module: nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    image_tokens: Callable[[int], ImageTokens]
    position: Callable[[], StepPosition]


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

    @property
    def grid(self) -> tuple[int, ...]:
        """How the image's tokens lie."""
        return self.image.grid

    @property
    def treats_queries_alike(self) -> bool:
        """Whether mask and causality are the same for every query."""
        mask = self.options.get("attn_mask")
        return not self.options.get("is_causal") and (mask is None or mask.shape[-2] == 1)


class AttentionPerturbation(Perturbation):
    """A change of scaled dot-product attention.

    Where text and image tokens attend together, only what the image's tokens ask is changed.
    """

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
            image = call.image_tokens(query.shape[-2])
            where = image.slice
            of_image = AttentionCall(
                query[..., where, :],
                key,
                value,
                _of_rows(options, where),
                native,
                image,
                call.position,
            )
            perturbed = self.attend(of_image)
            if perturbed.shape[-2] == query.shape[-2]:
                return perturbed
            parts = [perturbed]
            for other, end in ((slice(0, where.start), 0), (slice(where.stop, None), 1)):
                part = query[..., other, :]
                if part.shape[-2]:
                    plain = native(part, key, value, **_of_rows(options, other))
                    parts.insert(len(parts) if end else 0, plain)
            return torch.cat(parts, dim=-2)

        return attend_with(attend, call.module, call.forward, call.args, call.kwargs, call.name)


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
