"""The network of the attribute classifier: a small convolutional trunk and a head an attribute."""

from __future__ import annotations

__all__ = ["AttributeNetwork"]

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Channels at a half, a quarter, an eighth and a sixteenth of the size.
_WIDTHS = (24, 48, 96, 128)
#: Channels and units after the trunk. Places are kept: portraits are aligned, so that it matters
#: whether something is where the mouth is, or the hair.
_CHANNELS, _UNITS = 32, 192


class AttributeNetwork(nn.Module):
    """Logits of the values of each attribute, from pictures of one size.

    A residual network (He et al., 2016, https://arxiv.org/abs/1512.03385) of nine convolutions,
    whose last maps are not averaged over space, but read by a linear layer.

    Args:
        sizes: Attributes to the number of their values.
        image_size: Pixels a side; a multiple of 16.
    """

    def __init__(self, sizes: Mapping[str, int], *, image_size: int = 96) -> None:
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise ValueError(f"image_size is {image_size}; expected a positive multiple of 16")
        self.image_size = image_size
        self.sizes = dict(sizes)
        half, quarter, eighth, sixteenth = _WIDTHS
        self.trunk = nn.Sequential(
            _convolution(3, half),
            _convolution(half, quarter),
            _Residual(quarter),
            _convolution(quarter, eighth),
            _Residual(eighth),
            _convolution(eighth, sixteenth),
            _Residual(sixteenth),
            nn.Conv2d(sixteenth, _CHANNELS, 1),
            nn.Flatten(),
            nn.Linear(_CHANNELS * (image_size // 16) ** 2, _UNITS),
            nn.ReLU(),
        )
        # One layer for the heads of all attributes.
        self.heads = nn.Linear(_UNITS, sum(self.sizes.values()))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Attributes to logits ``(B, number of values)`` float32.

        Args:
            images: ``(B, 3, image_size, image_size)`` float in ``[-1, 1]``.
        """
        logits = cast(Tensor, self.heads(self.trunk(images))).float()
        parts = torch.split(logits, list(self.sizes.values()), dim=1)
        return dict(zip(self.sizes, parts, strict=True))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, stride=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


def _convolution(channels: int, out: int, *, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )
