"""PixArt-alpha and PixArt-Sigma."""

from __future__ import annotations

__all__ = ["PixArt"]

from typing import Any, ClassVar

from torch import nn

from .transformer import Transformer


class PixArt(Transformer):
    """Self-attention of the image's tokens, and cross-attention to the text."""

    name: ClassVar[str] = "PixArt"
    denoisers: ClassVar[tuple[str, ...]] = ("PixArtTransformer2DModel",)
    attention: ClassVar[tuple[str, ...]] = ("attn1",)

    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        """See `Transformer.patch`."""
        config: Any = denoiser.config
        return (config.patch_size, config.patch_size)

    def has_learned_variance(self, denoiser: nn.Module) -> bool:
        """See `Family.has_learned_variance`."""
        config: Any = denoiser.config
        return bool(config.out_channels == 2 * config.in_channels)
