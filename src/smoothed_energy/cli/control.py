"""The picture that a ControlNet follows: edges as they are given, or found in a photo."""

from __future__ import annotations

__all__ = ["fit_control", "open_control", "own_size"]

from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from .generate_settings import GenerateSettings


def open_control(settings: GenerateSettings) -> Image.Image | None:
    """The picture of ``--control`` or ``--canny`` in RGB, None if there is neither.

    Raises:
        ValueError: If it cannot be read.
    """
    path = settings.control or settings.canny
    if path is None:
        return None
    option = "--control" if settings.control else "--canny"
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"{option} {path}: there is no such file") from None
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{option} {path}: not a picture that can be read ({error})") from None


def own_size(pipeline: Any, settings: GenerateSettings) -> tuple[int, int]:
    """Height and width of what will be drawn, in pixels."""
    if settings.size is not None:
        return settings.size
    from ..integrations.pipeline_facts import picture_size

    return picture_size(pipeline)


def fit_control(picture: Image.Image, size: tuple[int, int], *, find_edges: bool) -> Image.Image:
    """The picture in the size of what is drawn, cut to its shape around the middle.

    Args:
        picture: RGB.
        size: Height and width in pixels.
        find_edges: Whether it becomes its edges.

    Raises:
        ValueError: If edges are to be found, and OpenCV is not installed.
    """
    height, width = size
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    if not find_edges:
        return fitted
    import numpy as np

    from ..models.edges import canny

    try:
        return Image.fromarray(canny(np.asarray(fitted)))
    except ImportError as error:
        raise ValueError(f"--canny: {error}") from None
