"""Resizing by PIL, as those networks' recipes have it whose numbers are to be compared.

PIL widens its filter where a picture shrinks, so that nothing aliases; `F.interpolate` without
`antialias` does not, and moves a Frechet distance by whole points (Parmar et al., "On Aliased
Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022, https://arxiv.org/abs/2104.11222).
PIL also rounds to whole bytes.
"""

from __future__ import annotations

__all__ = ["middle_square", "resize_bicubic"]

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def middle_square(images: Tensor) -> Tensor:
    """The largest square in the middle of pictures `(..., H, W)`."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


def resize_bicubic(images: Tensor, size: int) -> Tensor:
    """Pictures `(B, 3, H, W)` uint8 as `(B, 3, size, size)` uint8, by PIL's bicubic filter.

    Pictures that are not square are squeezed.
    """
    if images.shape[-2:] == (size, size):
        return images
    resized = [
        np.asarray(
            Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
                (size, size), Image.Resampling.BICUBIC
            )
        )
        for image in images.cpu()
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)
