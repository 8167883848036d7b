"""PNG files that carry the settings they were made with.

The settings are JSON in a text chunk named ``smoothed-energy``, as ``{"version": 1, ...}``.
"""

from __future__ import annotations

__all__ = ["KEY", "VERSION", "read_settings", "save_image"]

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

KEY = "smoothed-energy"
VERSION = 1


def save_image(image: Image.Image, path: Path, settings: Mapping[str, Any]) -> None:
    """Write a PNG with its settings; a file that is half written is never left behind.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    info = PngInfo()
    info.add_text(KEY, json.dumps({"version": VERSION, **settings}, allow_nan=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        image.save(unfinished, format="PNG", pnginfo=info)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that `save_image` wrote.

    Raises:
        ValueError: If the file is no image, has no settings, or a newer version wrote them.
    """
    try:
        with Image.open(path) as image:
            image.load()  # text chunks may follow the pixels
            text = getattr(image, "text", {}).get(KEY)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (UnidentifiedImageError, OSError):
        raise ValueError(f"{path}: not an image; expected a PNG that this program wrote") from None
    if text is None:
        raise ValueError(f"{path}: no settings in it; expected a PNG that this program wrote")
    try:
        settings = json.loads(text)
        version = settings.pop("version")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: its settings cannot be read") from None
    if version != VERSION:
        raise ValueError(
            f"{path}: its settings are of version {version!r}; this program reads version {VERSION}"
        )
    return dict(settings)
