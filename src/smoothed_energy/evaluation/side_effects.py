r"""Side effects of guidance: saturation, chroma, contrast, clipped values, sharpness, colour shift.

All are formulas of the pixels, which are RGB in the sRGB encoding, at the size that they have.

- *Saturation*: :math:`S = (\max - \min) / \max` of the three values of a pixel (0 for black), as in
  HSV, averaged over the pixels. Dark pixels can have any S, which the eye does not see.
- *Chroma*: :math:`C^* = \sqrt{a^{*2} + b^{*2}}` in CIELAB (CIE 15; white D65, 2 degree observer),
  averaged over the pixels. It grows with colour as it is seen.
- *Contrast*: the root of the mean squared deviation of luma from its mean, luma being
  :math:`Y' = 0.299 R' + 0.587 G' + 0.114 B'` (ITU-R BT.601) in ``[0, 1]`` (Peli, 1990, "Contrast in
  complex images", of encoded values).
- *Clipped*: the share of the values of all channels that are exactly 0 or 255.
- *Sharpness*: the variance of the Laplacian of luma in ``[0, 255]``, with the kernel
  ``[[0, 1, 0], [1, -4, 1], [0, 1, 0]]`` of [Re] SEG, eq. 12, where all of it lies in the picture.
- *Colour shift*: the CIE 1976 colour difference :math:`\Delta E^*_{ab}` between the mean CIELAB
  colours of two pictures: how far a picture's palette is from the other's, whatever lies where.
"""

from __future__ import annotations

__all__ = [
    "CHROMA",
    "CLIPPED",
    "COLOR_SHIFT",
    "CONTRAST",
    "SATURATION",
    "SHARPNESS",
    "clipped_share",
    "color_shift",
    "lab",
    "laplacian_variance",
    "luma",
    "mean_chroma",
    "mean_saturation",
    "rms_contrast",
]

import math

import torch
from torch import Tensor

from .picture_metric import PairMetric, PictureMetric

#: BT.601, as PIL and OpenCV convert RGB to grey.
_LUMA = (0.299, 0.587, 0.114)
#: Linear sRGB to CIE XYZ, IEC 61966-2-1. Its rows sum to the white point D65.
_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)


def luma(pictures: Tensor) -> Tensor:
    """BT.601 luma of pictures ``(B, 3, H, W)`` uint8: ``(B, H, W)`` float64 in ``[0, 255]``."""
    weights = torch.tensor(_LUMA, dtype=torch.float64, device=pictures.device)
    return torch.einsum("bchw,c->bhw", pictures.double(), weights)


def lab(pictures: Tensor) -> Tensor:
    """CIELAB of pictures ``(B, 3, H, W)`` uint8 sRGB: ``(B, 3, H, W)`` float64.

    L* lies in ``[0, 100]``, and greys have a* and b* of 0: the white point is that of the matrix.
    """
    encoded = pictures.double() / 255
    linear = torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(_XYZ, dtype=torch.float64, device=pictures.device)
    matrix = matrix / matrix.sum(1, keepdim=True)
    xyz = torch.einsum("bchw,dc->bdhw", linear, matrix)
    edge = 6 / 29
    f = torch.where(xyz > edge**3, xyz.pow(1 / 3), xyz / (3 * edge**2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def mean_saturation(pictures: Tensor) -> Tensor:
    """The mean HSV saturation of pictures ``(B, 3, H, W)`` uint8: ``(B,)`` in ``[0, 1]``."""
    values = pictures.double()
    high, low = values.amax(1), values.amin(1)
    return ((high - low) / high.clamp_min(1)).mean((1, 2))  # black is 0 / 1


def mean_chroma(pictures: Tensor) -> Tensor:
    """The mean CIELAB chroma of pictures ``(B, 3, H, W)`` uint8: ``(B,)``, 0 for greys."""
    _, a, b = lab(pictures).unbind(1)
    return torch.hypot(a, b).mean((1, 2))


def rms_contrast(pictures: Tensor) -> Tensor:
    """The RMS contrast of luma of pictures ``(B, 3, H, W)`` uint8: ``(B,)`` in ``[0, 0.5]``."""
    return (luma(pictures) / 255).std((1, 2), correction=0)


def clipped_share(pictures: Tensor, *, tolerance: int = 0) -> Tensor:
    """The share of channel values at an end of their range, ``(B,)`` in ``[0, 1]``.

    Args:
        pictures: ``(B, 3, H, W)`` uint8.
        tolerance: How far from 0 or 255 a value still counts as clipped.

    Raises:
        ValueError: If the tolerance is negative, or so large that all values would count.
    """
    if not 0 <= tolerance < 127:
        raise ValueError(f"tolerance is {tolerance}; expected at least 0 and less than 127")
    ends = (pictures <= tolerance) | (pictures >= 255 - tolerance)
    return ends.double().mean((1, 2, 3))


def laplacian_variance(pictures: Tensor) -> Tensor:
    """The variance of the Laplacian of luma of pictures ``(B, 3, H, W)`` uint8: ``(B,)``.

    Raises:
        ValueError: If the kernel of 3 x 3 does not fit into the pictures.
    """
    if min(pictures.shape[2:]) < 3:
        raise ValueError(
            f"pictures have {tuple(pictures.shape[2:])} pixels; expected 3 x 3 or more"
        )
    y = luma(pictures)
    centre = y[:, 1:-1, 1:-1]
    around = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:]
    return (around - 4 * centre).var((1, 2), correction=0)


def color_shift(pictures: Tensor, others: Tensor) -> Tensor:
    """The CIE 1976 difference of mean colours of pairs ``(B, 3, H, W)`` uint8: ``(B,)``."""
    shift = lab(pictures).mean((2, 3)) - lab(others).mean((2, 3))
    return shift.square().sum(1).sqrt()


#: Mean HSV saturation.
SATURATION = PictureMetric(name="saturation", measure=mean_saturation, bounds=(0, 1))
#: Mean CIELAB chroma. The sRGB colour of the highest has 134.
CHROMA = PictureMetric(name="chroma", measure=mean_chroma, unit="C*ab", bounds=(0, 134))
#: RMS contrast of luma.
CONTRAST = PictureMetric(name="contrast", measure=rms_contrast, bounds=(0, 0.5))
#: Share of channel values that are 0 or 255.
CLIPPED = PictureMetric(name="clipped", measure=clipped_share, bounds=(0, 1), better="lower")
#: Variance of the Laplacian of luma. Noise is sharp, too: more is not better in itself.
SHARPNESS = PictureMetric(name="sharpness", measure=laplacian_variance, bounds=(0, math.inf))
#: Distance of the mean colour from that of the other picture of the same seed.
COLOR_SHIFT = PairMetric(
    name="color-shift", measure=color_shift, unit="Delta E*ab", bounds=(0, math.inf)
)
