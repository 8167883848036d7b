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
    learned_variance: ClassVar[bool] = True
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    tied_to_size: ClassVar[tuple[str, ...]] = ("controlnet_block_samples",)

    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        """See `Family.layers`."""
        return tuple(replace(layer, softmax=False) for layer in super().layers(denoiser))

    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """See `Family.timestep`."""
        config: Any = denoiser.config
        return value / float(config.timestep_scale)
