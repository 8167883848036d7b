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
    text_arguments: ClassVar[tuple[str, ...]] = (
        "encoder_hidden_states_t5",
        _LAYERS,
        "pooled_embeds",
    )
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
        taken = super().take_rows(arguments, rows)
        layers = taken.get(_LAYERS)
        if isinstance(layers, Tensor):
            taken[_LAYERS] = layers[:, rows.start : rows.stop]
        elif layers is not None:
            taken[_LAYERS] = _each(rows.of, layers)
        return taken

    @override
    def repeat_rows(
        self, arguments: dict[str, Any], rows: Rows, text: Mapping[str, Any]
    ) -> dict[str, Any]:
        others = {name: value for name, value in text.items() if name != _LAYERS}
        found = super().repeat_rows(arguments, rows, others)
        count = rows.stop - rows.start
        twice = Rows(rows.stop, rows.stop + count, rows.batch + count)

        def put(layer: Tensor, other: Tensor) -> Tensor:
            one = other.to(layer).expand(count, *other.shape[1:])
            return twice.put(rows.repeated(layer), one)

        layers = arguments.get(_LAYERS)
        if _LAYERS in text:
            found[_LAYERS] = _each(put, layers, text[_LAYERS])
        elif layers is not None:
            found[_LAYERS] = _each(rows.repeated, layers)
        return found

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


def _each(change: Callable[..., Tensor], layers: Any, *others: Any) -> Any:
    """A change made of what every layer of a text encoder gives, in one tensor or in a list."""
    found = [change(*each) for each in zip(layers, *others, strict=True)]
    return torch.stack(found) if isinstance(layers, Tensor) else type(layers)(found)
