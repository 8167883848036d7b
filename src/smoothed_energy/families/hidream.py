"""The family of HiDream-I1."""

from __future__ import annotations

__all__ = ["HiDream"]

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.image_tokens import GridError
from ..intercept.module_call import Rows
from .base import Arguments
from .transformer import Transformer

_BOTH = ("hidden_states", "encoder_hidden_states")
_LAYERS = "encoder_hidden_states_llama3"


class HiDream(Transformer):
    """Image and text attend together, the image's tokens first, in two stacks of blocks.

    Those of pictures that are not square are padded to the largest picture's. A feed-forward
    network is a mixture of experts.
    """

    name: ClassVar[str] = "HiDream"
    denoisers: ClassVar[tuple[str, ...]] = ("HiDreamImageTransformer2DModel",)
    time: ClassVar[str] = "timesteps"
    stacks: ClassVar[Mapping[str, str]] = {"b": "double_stream_blocks", "s": "single_stream_blocks"}
    attention: ClassVar[tuple[str, ...]] = ("block.attn1",)
    text: ClassVar[Any] = "after"
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": _BOTH, "s": _BOTH}
    unbatched: ClassVar[frozenset[str]] = frozenset({_LAYERS})
    tied_to_size: ClassVar[tuple[str, ...]] = ("img_ids", "img_sizes", "hidden_states_masks")
    reversed_flow: ClassVar[bool] = True

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        shape = tuple(self.latents(argument).shape)
        if len(shape) != 4:
            raise GridError(
                f"latents of shape {shape} are patches, whose grid is not known here; expected "
                "pictures (B, C, H, W), of which the denoiser makes the patches"
            )
        return super().grid(denoiser, argument)

    @override
    def take_rows(self, arguments: dict[str, Any], rows: Rows) -> dict[str, Any]:
        """What the layers of a text encoder give has the layers first."""
        if rows.is_all:
            return arguments
        return super().take_rows(arguments, rows) | _of_layers(arguments, rows.of)

    @override
    def repeat_rows(
        self, arguments: dict[str, Any], rows: Rows, text: Mapping[str, Any]
    ) -> dict[str, Any]:
        return super().repeat_rows(arguments, rows, text) | _of_layers(arguments, rows.repeated)

    @override
    def outputs(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, module: nn.Module
    ) -> tuple[str, ...]:
        if module is layer.module:
            return ("norm_hidden_states", "norm_encoder_hidden_states")
        return super().outputs(denoiser, layer, module)

    @override
    def feed_forward(self, block: nn.Module) -> nn.Module | None:
        found: nn.Module = block.get_submodule("ff_i")
        return found


def _of_layers(arguments: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """What the layers of a text encoder give, with another number of rows, if it is there."""
    layers: Any = arguments.get(_LAYERS)
    if layers is None:
        return {}
    changed = [change(layer) for layer in layers]
    return {_LAYERS: torch.stack(changed) if isinstance(layers, Tensor) else type(layers)(changed)}
