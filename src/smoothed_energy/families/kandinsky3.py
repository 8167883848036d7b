"""The family of Kandinsky 3, whose U-Net has self-attention around its convolutions."""

from __future__ import annotations

__all__ = ["Kandinsky3"]

import math
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError, ImageTokens
from .base import Arguments, Setting, Step
from .unet import UNet


class Kandinsky3(UNet):
    """A path down and a path up, each stage with one layer, and no middle."""

    name: ClassVar[str] = "Kandinsky 3"
    denoisers: ClassVar[tuple[str, ...]] = ("Kandinsky3UNet",)
    tied_to_size: ClassVar[tuple[str, ...]] = ()

    @override
    def is_layer(self, name: str, module: Any) -> bool:
        """All attention says it is cross-attention; the first of a stage's gets no text."""
        return name.endswith(".attentions.0.attention")

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        size = argument.features.get(layer)
        if size is None:
            size = self._size(denoiser, layer, tuple(argument(self.sample).shape[-2:]))
        if math.prod(size) != count:
            raise GridError(
                f"{layer} has {count} tokens, but its feature map is {size[0]}x{size[1]}; the "
                "blocks around layers get feature maps, whose tokens can't be shuffled"
            )
        return ImageTokens(size)

    @override
    def layer_grid(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, latents: tuple[int, ...]
    ) -> tuple[int, ...]:
        return self._size(denoiser, layer.name, latents[-2:])

    def _size(self, denoiser: nn.Module, layer: str, latents: tuple[int, ...]) -> tuple[int, int]:
        path, number, *_ = layer.split(".")
        stages = len(list(denoiser.get_submodule("down_blocks").children()))
        level = int(number) if path == "down_blocks" else stages - 1 - int(number)
        height, width = latents
        return height // 2**level, width // 2**level

    @override
    def multiple(self, denoiser: nn.Module) -> int:
        config: Any = denoiser.config
        return int(2 ** (len(config.block_out_channels) - 1))

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """One batch `[u, c]`, and c + g (c - u) with the scale of the call."""
        scale = float(setting("arguments", {})["guidance_scale"])
        if not setting("do_classifier_free_guidance", scale > 1.0):
            return BatchLayout()
        return BatchLayout(2, conditional=1, unconditional=0, cfg_scale=1 + scale)
