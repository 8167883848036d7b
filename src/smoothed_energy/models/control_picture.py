"""Pictures that a ControlNet follows: read from any file, cut to size, and never empty."""

from __future__ import annotations

__all__ = ["edges_of", "fitted", "read_control_picture"]

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..files.picture_file import open_picture
from .edges import HIGH, canny

_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def read_control_picture(path: Path, *, on_white: bool) -> Image.Image:
    """A picture in RGB, upright and opaque.

    Args:
        path: Its file.
        on_white: Whether what is transparent becomes whichever of white and black is farther from
            what is drawn on it, as a photo's edges need; else black, on which edges are white.

    Raises:
        ValueError: If it can't be read.
    """
    with open_picture(path.expanduser()) as image:
        picture = ImageOps.exif_transpose(image)
        if picture.mode in _DEEP:
            return _from_deep(np.asarray(picture, dtype=np.float64))
        if "A" in picture.getbands() or "transparency" in picture.info:
            return _opaque(picture.convert("RGBA"), on_white=on_white)
        return picture.convert("RGB")


def _from_deep(values: np.ndarray) -> Image.Image:
    """Brightness of more than 8 bits, which Pillow would cut off at 255.

    Raises:
        ValueError: If it is not in the range of any kind of pictures.
    """
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):  # also not a number
        raise ValueError(
            f"its brightness is from {low:g} to {high:g}; expected values in [0, 1], [0, 255] or "
            "[0, 65535]"
        )
    most = next(most for most in (1, 255, 65535) if high <= most)
    scaled = np.rint(values * (255 / most)).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def _opaque(picture: Image.Image, *, on_white: bool) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float64)
    alpha = pixels[..., 3].sum()
    drawn = 255.0 if alpha == 0 else (pixels[..., :3].mean(-1) * pixels[..., 3]).sum() / alpha
    ground = "white" if on_white and drawn < 127.5 else "black"
    sheet = Image.new("RGBA", picture.size, ground)
    return Image.alpha_composite(sheet, picture).convert("RGB")


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture cut to a size, around its middle.

    Args:
        picture: RGB.
        size: Height and width in pixels.

    Raises:
        ValueError: If it is the same everywhere: there is nothing to follow.
    """
    found = picture
    if picture.size != size[::-1]:
        found = ImageOps.fit(picture, size[::-1], Image.Resampling.LANCZOS)
    pixels = np.asarray(found)
    if (pixels == pixels[0, 0]).all():
        raise ValueError(
            "it is the same everywhere in the part that is drawn, so there is nothing to follow; "
            "expected another picture"
        )
    return found


def edges_of(picture: Image.Image) -> Image.Image:
    """The edges of a picture, white on black.

    Args:
        picture: RGB.

    Raises:
        ImportError: If OpenCV is not installed.
        ValueError: If there are none.
    """
    edges = canny(np.asarray(picture))
    if not edges.any():
        grey = np.asarray(picture.convert("L"))
        raise ValueError(
            f"no edges are found in it: its brightness is from {grey.min()} to {grey.max()} of "
            f"255, and changes nowhere by {HIGH:g} at once; expected a picture of more contrast"
        )
    return Image.fromarray(edges)
