"""The picture that a ControlNet follows: edges as they are given, or found in a photo."""

from __future__ import annotations

__all__ = ["check_size", "fit_control", "open_control", "own_size"]

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from .followed import Followed, is_kept
from .generate_settings import GenerateSettings
from .setting_kinds import MOST_PIXELS_A_SIDE

#: Attention needs the fourth power of it.
_MOST_ENLARGED = 8


def open_control(settings: GenerateSettings) -> Image.Image | None:
    """The picture that is followed, in RGB: of an option, or kept in the image of ``--from``.

    Returns:
        The picture; None if nothing is followed.

    Raises:
        ValueError: If it cannot be read, or is not kept.
    """
    if not settings.is_controlled:
        return None
    if settings.control is not None and is_kept(settings.control):
        return _kept(settings.source, settings.control)
    from ..models.control_picture import read_control_picture

    option, path = (
        ("--control", settings.control) if settings.control else ("--canny", settings.canny)
    )
    try:
        return read_control_picture(Path(path or ""), on_white=settings.canny is not None)
    except ValueError as error:
        raise ValueError(f"{option} {path}: {error}") from None


def _kept(source: Path | None, digest: str) -> Image.Image:
    from ..report import read_control

    picture = None if source is None else read_control(source)
    if picture is None:
        raise ValueError(
            f"--from {source}: the picture that it followed is not kept in it, being too large; "
            "expected --control or --canny with that picture"
        )
    if Followed(picture).digest != digest:
        raise ValueError(
            f"--from {source}: the picture that is kept in it is not the one that it followed; "
            "expected --control or --canny"
        )
    return picture


def own_size(pipeline: Any, settings: GenerateSettings) -> tuple[int, int]:
    """Height and width of what will be drawn, in pixels."""
    if settings.size is not None:
        return settings.size
    from ..integrations.pipeline_facts import picture_size

    return picture_size(pipeline)


def check_size(pipeline: Any, settings: GenerateSettings) -> None:
    """Refuse sizes far from those that a model was made for: their memory has no bound.

    Raises:
        ValueError: If it is one, or the model's own size is none.
    """
    try:
        own = own_size(pipeline, replace(settings, size=None))
    except AttributeError:
        return  # it does not tell
    except (TypeError, ValueError):
        own = (0, 0)
    if not all(isinstance(side, int) and 0 < side <= MOST_PIXELS_A_SIDE for side in own):
        raise ValueError(
            f"{settings.model}: its configuration has no size of pictures that can be drawn; "
            "expected a sample_size of its denoiser"
        )
    most = _MOST_ENLARGED * max(own)
    if settings.size is not None and max(settings.size) > most:
        height, width = settings.size
        raise ValueError(
            f"--size {height}x{width}: {settings.model} draws pictures of {own[0]}x{own[1]}; "
            f"expected at most {most} pixels a side"
        )


def fit_control(
    picture: Image.Image, size: tuple[int, int], settings: GenerateSettings
) -> Followed:
    """The picture in the size of what is drawn, cut to its shape around the middle.

    Args:
        picture: RGB.
        size: Height and width in pixels.
        settings: The settings of the run.

    Raises:
        ValueError: If there is nothing in it to follow, or edges are to be found, and OpenCV is not
            installed.
    """
    from ..models.control_picture import edges_of, fitted

    option = "--canny" if settings.canny else "--control"
    named = settings.canny or settings.control
    try:
        found = fitted(picture, size)
        if settings.canny:
            found = edges_of(found)
    except ImportError as error:
        raise ValueError(f"--canny: {error}") from None
    except ValueError as error:
        raise ValueError(f"{option} {named}: {error}") from None
    return Followed(found)
