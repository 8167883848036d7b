"""Pictures that strangers may have made: read if they are of a usual kind and size."""

from __future__ import annotations

__all__ = ["MOST_PIXELS", "PictureError", "decoded", "open_picture"]

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image

from .regular_file import open_regular

#: A header may promise more than any memory holds.
MOST_PIXELS = 100_000_000

#: What people have pictures in; others start programs (EPS) or are not pictures of pixels.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")


class PictureError(ValueError):
    """A picture can't be read; the message says why, and leaves out which file it is."""


@contextmanager
def open_picture(
    path: Path, formats: Sequence[str] = _FORMATS, *, load: bool = True
) -> Iterator[Image.Image]:
    """A picture, open, with what is written beside its pixels.

    Args:
        path: Its file.
        formats: The kinds of files, as Pillow names them.
        load: Whether its pixels are read.

    Raises:
        PictureError: If it can't be read, also where it is read in the block.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise PictureError("there is no such file") from None
    except OSError as error:
        raise PictureError(f"not a picture that can be read: {error.strerror or error}") from None
    with file, decoded(file, formats, load=load) as image:
        yield image


@contextmanager
def decoded(
    file: IO[bytes], formats: Sequence[str] = _FORMATS, *, load: bool = True
) -> Iterator[Image.Image]:
    """A picture from an open file; as `open_picture`.

    Raises:
        PictureError: If it can't be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=list(formats))
    except Image.DecompressionBombError:
        raise _too_large(None) from None
    except Exception as error:  # of many kinds, for a file that is damaged
        raise PictureError(
            f"not a picture that can be read; expected {', '.join(formats)}"
        ) from error
    with image:
        if image.width * image.height > MOST_PIXELS:
            raise _too_large(image.size)
        try:
            if load:
                image.load()
            yield image
        except (OSError, SyntaxError, EOFError, struct.error, zlib.error) as error:
            raise PictureError(f"the picture is damaged: {error}") from error


def _too_large(size: tuple[int, int] | None) -> PictureError:
    said = "" if size is None else f": {size[0]} x {size[1]}"
    return PictureError(f"the picture is too large{said}; expected at most {MOST_PIXELS} pixels")
