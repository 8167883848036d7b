"""What an image remembers of the run that drew it."""

from __future__ import annotations

__all__ = ["check_stored", "is_drawn_with", "prompt_of", "read_image", "read_stored", "remembered"]

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .generate_settings import OPTIONS, GenerateSettings
from .setting_kinds import check_texts

if TYPE_CHECKING:
    from PIL import Image

_MADE_WITH = "made_with"
#: What images of version 0.1.0 have, too.
_ONCE_REMEMBERED = ["canny"]


def remembered(settings: GenerateSettings) -> dict[str, Any]:
    """What is stored in an image: the settings, and the versions of what made it."""
    import diffusers
    import torch

    from .. import __version__

    versions = {
        "smoothed-energy": __version__,
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
    }
    return {**settings.to_dict(), _MADE_WITH: versions}


def read_stored(path: Path) -> dict[str, Any]:
    """The settings in an image, unchecked, without the versions.

    Raises:
        ValueError: If the image cannot be read, or this program did not write it.
    """
    from ..report import read_settings

    stored = read_settings(path)
    stored.pop(_MADE_WITH, None)
    return stored


def prompt_of(path: Path) -> str | None:
    """The prompt that an image was drawn with; None if this program did not write it."""
    try:
        return str(read_stored(path).get("prompt", ""))
    except ValueError:
        return None


def is_drawn_with(settings: Mapping[str, Any], path: Path) -> bool:
    """Whether an image was drawn with these settings, by any version of this program.

    Args:
        settings: What it should remember. What is not in it is not compared, and nor is a picture
            that is followed before it is known (``control`` is None).
        path: The image.
    """
    try:
        stored = read_stored(path)
    except ValueError:
        return False
    return all(
        stored.get(name) == value
        for name, value in json.loads(json.dumps(settings)).items()
        if name != _MADE_WITH and (name, value) != ("control", None)
    )


def read_image(path: Path) -> Image.Image:
    """The pixels of an image that an earlier run has written.

    Raises:
        ValueError: If it cannot be read.
    """
    from ..files.picture_file import open_picture

    try:
        with open_picture(path, ["PNG"]) as image:
            return image.copy()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_stored(stored: Mapping[str, Any]) -> None:
    """Refuse what an image remembers if it is not what this program writes.

    Raises:
        ValueError: If a setting is unknown, or its value is of another kind.
    """
    for name, value in stored.items():
        known = name in OPTIONS and OPTIONS[name].is_remembered
        if not known and name not in _ONCE_REMEMBERED:
            raise ValueError(f"--from: the image has an unknown setting {name!r}")
        check_texts(f"--from: the image's setting {name}", value)
        kind = OPTIONS[name].kind
        if not kind.accepts(value):
            raise ValueError(
                f"--from: the image's setting {name}={value!r} cannot be read; "
                f"expected {kind.words}"
            )
