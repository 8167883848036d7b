"""Sana."""

from __future__ import annotations

__all__ = ["Sana"]

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from ..self_attention import SelfAttentionLayer
from .transformer import Transformer


class Sana(Transformer):
    """Linear attention of the image's tokens, and cross-attention to the text.

    Linear attention has no softmax(QK^T) to perturb or to look at.
    """

    name: ClassVar[str] = "Sana"
    denoisers: ClassVar[tuple[str, ...]] = ("SanaTransformer2DModel",)
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    tied_to_size: ClassVar[tuple[str, ...]] = ("controlnet_block_samples",)

    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        """See `Family.layers`."""
        return tuple(replace(layer, softmax=False) for layer in super().layers(denoiser))

    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        """See `Transformer.patch`."""
        config: Any = denoiser.config
        return (config.patch_size, config.patch_size)

    def has_learned_variance(self, denoiser: nn.Module) -> bool:
        """See `Family.has_learned_variance`."""
        config: Any = denoiser.config
        return bool(config.out_channels == 2 * config.in_channels)

    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """See `Family.timestep`."""
        config: Any = denoiser.config
        return value / float(config.timestep_scale)
