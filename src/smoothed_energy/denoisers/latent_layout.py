"""How the latents of a picture or a video lie in a prediction."""

from __future__ import annotations

__all__ = [
    "ChannelsFirst",
    "ChannelsLast",
    "FramesFirst",
    "LatentLayout",
    "OneAxis",
    "Packed",
    "WithoutFirstFrame",
]

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override


class LatentLayout(ABC):
    """How a denoiser's predictions are laid out."""

    @abstractmethod
    def unpack(self, prediction: Tensor) -> Tensor:
        """A prediction as `(B, C, H, W)` or `(B, C, F, H, W)`."""

    @abstractmethod
    def pack(self, unpacked: Tensor, like: Tensor) -> Tensor:
        """The inverse of `unpack`.

        Args:
            unpacked: `(B, C, H, W)` or `(B, C, F, H, W)`.
            like: A prediction. What `unpack` leaves out of it is zero in the result.
        """


@dataclass(frozen=True)
class ChannelsFirst(LatentLayout):
    """`(B, C, H, W)` or `(B, C, F, H, W)`, as it is."""

    @override
    def unpack(self, prediction: Tensor) -> Tensor:
        return prediction

    @override
    def pack(self, unpacked: Tensor, like: Tensor) -> Tensor:
        return unpacked


@dataclass(frozen=True)
class ChannelsLast(LatentLayout):
    """`(B, H, W, C)` or `(B, F, H, W, C)`.

    Args:
        given: The number of frames at the end that the pipeline gives and drops.
    """

    given: int = 0

    @override
    def unpack(self, prediction: Tensor) -> Tensor:
        drawn = prediction[:, : -self.given] if self.given else prediction
        return drawn.movedim(-1, 1)

    @override
    def pack(self, unpacked: Tensor, like: Tensor) -> Tensor:
        packed = unpacked.movedim(1, -1)
        if not self.given:
            return packed
        return torch.cat([packed, torch.zeros_like(packed[:, : self.given])], dim=1)


@dataclass(frozen=True)
class FramesFirst(LatentLayout):
    """`(B, F, C, H, W)`."""

    @override
    def unpack(self, prediction: Tensor) -> Tensor:
        return prediction.transpose(1, 2)

    @override
    def pack(self, unpacked: Tensor, like: Tensor) -> Tensor:
        return unpacked.transpose(1, 2)


@dataclass(frozen=True)
class WithoutFirstFrame(LatentLayout):
    """`(B, C, F, H, W)`, whose first frame the pipeline gives and drops."""

    @override
    def unpack(self, prediction: Tensor) -> Tensor:
        return prediction[:, :, 1:]

    @override
    def pack(self, unpacked: Tensor, like: Tensor) -> Tensor:
        first = torch.zeros_like(unpacked[:, :, :1])
        return torch.cat([first, unpacked], dim=2)


@dataclass(frozen=True)
class OneAxis(LatentLayout):
    """`(B, C, T)`, or `(B, T, C)`: as a picture it is `(B, C, 1, T)`.

    Args:
        channels_last: Whether the channels come last.
    """

    channels_last: bool

    @override
    def unpack(self, prediction: Tensor) -> Tensor:
        return (prediction.mT if self.channels_last else prediction).unsqueeze(2)

    @override
    def pack(self, unpacked: Tensor, like: Tensor) -> Tensor:
        flat = unpacked.squeeze(2)
        return flat.mT if self.channels_last else flat


@dataclass(frozen=True)
class Packed(LatentLayout):
    """Tokens `(B, T, C * patch)`: first those of the picture or video, row by row.

    The numbers of a token are those of a patch, `(C, *patch)` in row-major order.

    Args:
        grid: The grid of the tokens, `(H, W)` or `(F, H, W)`.
        patch: The size of a patch along the same axes.
    """

    grid: tuple[int, ...]
    patch: tuple[int, ...]

    @override
    def unpack(self, prediction: Tensor) -> Tensor:
        axes = len(self.grid)
        batch, _, width = prediction.shape
        channels = width // math.prod(self.patch)
        tokens = prediction[:, : math.prod(self.grid)]
        apart = tokens.reshape(batch, *self.grid, channels, *self.patch)
        # From (B, *grid, C, *patch): every axis of the grid before that of its patch.
        pairs = [axis for i in range(axes) for axis in (1 + i, 2 + axes + i)]
        sizes = [count * size for count, size in zip(self.grid, self.patch, strict=True)]
        return apart.permute(0, 1 + axes, *pairs).reshape(batch, channels, *sizes)

    @override
    def pack(self, unpacked: Tensor, like: Tensor) -> Tensor:
        axes = len(self.grid)
        sides = [side for pair in zip(self.grid, self.patch, strict=True) for side in pair]
        apart = unpacked.reshape(*unpacked.shape[:2], *sides)
        # Back from (B, C, grid 0, patch 0, grid 1, ...).
        grid, patch = (range(start, 2 + 2 * axes, 2) for start in (2, 3))
        tokens = apart.permute(0, *grid, 1, *patch).flatten(1 + axes).flatten(1, axes)
        rest = like.shape[1] - tokens.shape[1]
        return torch.nn.functional.pad(tokens, (0, 0, 0, rest)) if rest else tokens
