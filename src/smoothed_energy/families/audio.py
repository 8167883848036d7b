"""The base class of families of audio, whose tokens lie along one axis: time."""

from __future__ import annotations

__all__ = ["Audio"]

import math
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.latent_layout import LatentLayout, OneAxis
from .base import Arguments
from .transformer import Transformer


class Audio(Transformer):
    """A stack of blocks over time. The grid of its tokens is `(1, T)`.

    Attributes:
        channels_last: Whether latents are `(B, T, C)`, and not `(B, C, T)`.
    """

    channels_last: ClassVar[bool] = False

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        config: Any = denoiser.config
        return (1, config.get("patch_size", 1))

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        length = self.latents(argument).shape[1 if self.channels_last else 2]
        # A last token that is not full is filled up with zeros.
        return (1, math.ceil(length / self.patch(denoiser)[-1]))

    @override
    def length(self, denoiser: nn.Module, argument: Arguments) -> int:
        return math.prod(argument.once(self.grid, denoiser))

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        return OneAxis(self.channels_last)
