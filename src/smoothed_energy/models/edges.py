"""Edges of a picture, for a ControlNet that was trained on them.

References:
    | A Computational Approach to Edge Detection (Canny, 1986), as OpenCV implements it
    | Adding Conditional Control to Text-to-Image Diffusion Models (Zhang et al., ICCV 2023)
    | https://arxiv.org/abs/2302.05543
"""

from __future__ import annotations

__all__ = ["HIGH", "LOW", "canny"]

from typing import Any

import numpy as np

#: Thresholds of the brightness gradient (0 to 255 a pixel), those of the ControlNet paper.
LOW, HIGH = 100.0, 200.0


def canny(pixels: np.ndarray, *, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """White edges on black.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.
        low: Edges go on where the gradient is above this.
        high: Edges begin where it is above this.

    Returns:
        `(H, W, 3)` uint8, 0 or 255, three equal channels.

    Raises:
        ImportError: If OpenCV is not installed.
        ValueError: If the pixels are not an RGB picture, or the thresholds not in order.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(
            f"edges need pixels (H, W, 3) of uint8; got {pixels.shape} of {pixels.dtype}"
        )
    if not 0 <= low <= high:
        raise ValueError(f"low={low!r}, high={high!r}: expected 0 <= low <= high")
    found = _opencv().Canny(np.ascontiguousarray(pixels), low, high)
    return np.repeat(np.asarray(found)[..., None], 3, axis=-1)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "edges are found with OpenCV, which is not installed; pip install "
            '"smoothed-energy[control]", or give a picture of edges'
        ) from error
    return cv2
