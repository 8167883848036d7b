"""The family of Wan Animate, whose videos follow a pose and a face."""

from __future__ import annotations

__all__ = ["WanAnimate"]

from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.image_tokens import ImageTokens, TokensWithoutGrid
from ..denoisers.latent_layout import LatentLayout, WithoutFirstFrame
from .base import Arguments
from .wan import Wan


class WanAnimate(Wan):
    """Wan with a picture of the character as the first frame, which stays as it is."""

    name: ClassVar[str] = "Wan Animate"
    denoisers: ClassVar[tuple[str, ...]] = ("WanAnimateTransformer3DModel",)
    tied_to_size: ClassVar[tuple[str, ...]] = ("pose_hidden_states",)

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        return WithoutFirstFrame()

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        found = super().tokens(denoiser, argument, layer, count)
        if isinstance(found, TokensWithoutGrid):
            return found
        frames, height, width = found.grid
        return ImageTokens((frames - 1, height, width), start=height * width)
