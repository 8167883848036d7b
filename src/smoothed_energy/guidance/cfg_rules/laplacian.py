r"""A Laplacian pyramid of pictures: levels of detail whose sum, each made larger, is the picture.

The next level is a picture blurred by the binomial filter of 5 x 5, `[1 4 6 4 1] / 16` on each axis
with mirrored borders, at half the size (rounded up, bilinear). What a level holds is the picture
less the next level made larger and blurred again (Burt and Adelson 1983). For sizes that are powers
of two this is the pyramid of `kornia`, which others are padded to there.
"""

from __future__ import annotations

__all__ = ["laplacian", "picture_of"]

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def laplacian(pictures: Tensor, levels: int) -> list[Tensor]:
    """The levels of pictures `(B, C, H, W)`, the finest first; the last one is what is left.

    Raises:
        ValueError: If a level is too small to be halved again.
    """
    found, current = [], pictures
    for level in range(levels - 1):
        if min(current.shape[-2:]) < 3:
            size = "x".join(map(str, pictures.shape[-2:]))
            raise ValueError(
                f"{levels} levels of latents of {size}: level {level + 1} is smaller than the "
                f"blur; expected at most {level + 1}"
            )
        coarser = _smaller(current)
        found.append(current - _larger(coarser, current))
        current = coarser
    return [*found, current]


def picture_of(pyramid: Sequence[Tensor]) -> Tensor:
    """The pictures that a pyramid stands for."""
    *finer, current = pyramid
    for level in reversed(finer):
        current = level + _larger(current, level)
    return current


def _smaller(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[-2:]
    return _resized(_blurred(pictures), (-(-height // 2), -(-width // 2)))


def _larger(pictures: Tensor, like: Tensor) -> Tensor:
    return _blurred(_resized(pictures, (like.shape[-2], like.shape[-1])))


def _resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False)


def _blurred(pictures: Tensor) -> Tensor:
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=pictures.dtype, device=pictures.device)
    channels = pictures.shape[1]
    kernel = (torch.outer(line, line) / 256).expand(channels, 1, 5, 5)
    padded = F.pad(pictures, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, kernel, groups=channels)
