"""The family of Latte, whose blocks attend over space and over time in turn."""

from __future__ import annotations

__all__ = ["Latte"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import PARTS, SelfAttentionLayer
from ..denoisers.image_tokens import ImageTokens, unknown_grid
from .base import Arguments
from .transformer import Transformer


class Latte(Transformer):
    """Self-attention within every frame (``b``), and over time in every place (``t``).

    The layers over time are the part ``"motion"``, as in AnimateDiff; ``"down"``, ``"mid"`` and
    ``"up"`` are thirds of those within frames.
    """

    name: ClassVar[str] = "Latte"
    denoisers: ClassVar[tuple[str, ...]] = ("LatteTransformer3DModel",)
    cfg_of_call: ClassVar[bool] = True
    scale_of_call: ClassVar[bool] = True
    parts: ClassVar[tuple[str, ...]] = (*PARTS, "motion")
    learned_variance: ClassVar[bool] = True
    stacks: ClassVar[Mapping[str, str]] = {
        "b": "transformer_blocks",
        "t": "temporal_transformer_blocks",
    }
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        config: Any = denoiser.config
        return (1, config.patch_size, config.patch_size)

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        found = super().layers(denoiser)
        blocks = len(found) // 2  # as many over time as within frames
        parts = [PARTS[layer.block * len(PARTS) // blocks] for layer in found]
        placed = [
            replace(layer, part="motion" if layer.letter == "t" else part)
            for layer, part in zip(found, parts, strict=True)
        ]
        return tuple(sorted(placed, key=lambda layer: (layer.block, layer.letter)))

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        over_time = layer.startswith(self.stacks["t"])
        grid = argument.once(self.grid, denoiser)
        found = ImageTokens(grid, folded="places" if over_time else "frames")
        if found.count != count:
            size = "x".join(map(str, grid))
            return unknown_grid(layer, count, f"{found.count} of a grid {size} were expected")
        return found
