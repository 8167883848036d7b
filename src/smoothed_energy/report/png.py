"""PNG files that carry the settings they were made with.

The settings are JSON in a text chunk named ``smoothed-energy``, as ``{"version": 1, ...}``. The
picture that a ControlNet followed may be beside it, in ``smoothed-energy-control``, as base64.
"""

from __future__ import annotations

__all__ = ["KEY", "VERSION", "read_control", "read_settings", "save_image"]

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..files import whole_file
from ..files.picture_file import decoded, open_picture

KEY = "smoothed-energy"
VERSION = 1
_CONTROL = f"{KEY}-control"


def save_image(
    image: Image.Image,
    path: Path,
    settings: Mapping[str, Any],
    *,
    replace: bool = True,
    control: str | None = None,
) -> None:
    """Write a PNG with its settings; a file that is half written is never left behind.

    Args:
        image: The picture.
        path: The file; its folder is made if it is missing.
        settings: JSON values.
        replace: Whether it takes the place of a file that is there.
        control: A picture that was followed, as a PNG in base64.

    Raises:
        FileExistsError: If there is a file that it is not to replace.
        OSError: If it cannot be written; what was there before stays.
    """
    info = PngInfo()
    info.add_text(KEY, json.dumps({"version": VERSION, **settings}, allow_nan=False))
    if control is not None:
        info.add_text(_CONTROL, control)
    with whole_file(path, replace=replace) as file:
        image.save(file, format="PNG", pnginfo=info)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that `save_image` wrote.

    Raises:
        ValueError: If the file is no image, has no settings, or a newer version wrote them.
    """
    text = _text(path, KEY)
    if text is None:
        raise ValueError(f"{path}: no settings in it; expected a PNG that this program wrote")
    try:
        settings = json.loads(text)
        version = settings.pop("version")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path}: its settings cannot be read") from None
    if version != VERSION:
        raise ValueError(
            f"{path}: its settings are of version {version!r}; this program reads version {VERSION}"
        )
    return dict(settings)


def read_control(path: Path) -> Image.Image | None:
    """The picture that the one of a file followed, in RGB; None if it is not kept in it.

    Raises:
        ValueError: If the file is no image, or what is kept is no picture.
    """
    text = _text(path, _CONTROL)
    if text is None:
        return None
    try:
        data = base64.b64decode(text, validate=True)
        with decoded(io.BytesIO(data), ["PNG"]) as picture:
            return picture.convert("RGB")
    except ValueError as error:
        raise ValueError(f"{path}: the picture that it followed is damaged ({error})") from None


def _text(path: Path, key: str) -> str | None:
    try:
        with open_picture(path, load=False) as image:
            text = image.info.get(key)
            if text is None:  # it may follow the pixels
                image.load()
                text = image.info.get(key) or getattr(image, "text", {}).get(key)
    except ValueError as error:
        if "no such file" in str(error):
            raise ValueError(f"{path}: {error}") from None
        raise ValueError(
            f"{path}: not an image; expected a PNG that this program wrote ({error})"
        ) from None
    return text if isinstance(text, str) else None
