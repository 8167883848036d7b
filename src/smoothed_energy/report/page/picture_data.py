"""Pictures as data URIs, so that a page has them inside itself."""

from __future__ import annotations

__all__ = ["SMALL", "EmbeddedPicture", "embed"]

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

SMALL = 128  # the longest side of a picture that keeps every pixel
QUALITY = 90  # of larger ones


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture as it is in a page.

    Args:
        uri: The picture itself.
        size: Width and height in pixels, in the page.
        original: Width and height before it was reduced.
    """

    uri: str
    size: tuple[int, int]
    original: tuple[int, int]


def embed(picture: Image.Image | Path | str, limit: int) -> EmbeddedPicture:
    """A picture as data: PNG up to 128 pixels, WebP above.

    Args:
        picture: The picture, or its file. Its metadata stay behind.
        limit: Pixels of the longest side that larger pictures are reduced to.

    Raises:
        ValueError: If the file is not there or no picture.
    """
    image = picture if isinstance(picture, Image.Image) else _opened(Path(picture))
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    image = image.convert("RGBA" if transparent else "RGB")  # always a copy
    original = image.size
    if max(original) > limit:
        image.thumbnail((limit, limit), Image.Resampling.LANCZOS, reducing_gap=3.0)
    image.info.clear()
    small = max(image.size) <= SMALL
    data = io.BytesIO()
    if small:
        image.save(data, format="PNG", optimize=True)
    else:
        image.save(data, format="WEBP", quality=QUALITY)
    kind = "png" if small else "webp"
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return EmbeddedPicture(f"data:image/{kind};base64,{text}", image.size, original)


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            copy: Image.Image = image.copy()
            return copy
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such picture") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: not a picture that can be read: {error}") from None
