"""Pictures to measure: files of a folder, or pictures in memory, as bytes of RGB."""

from __future__ import annotations

__all__ = ["Picture", "Pictures", "pictures_in", "pixel_digest"]

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..files.picture_file import PictureError, open_picture
from ..settings.checks import check_count
from .pil_resize import middle_square, resize_bicubic

#: A picture: a file, an image of PIL, or ``(3, H, W)`` uint8.
Picture: TypeAlias = "str | Path | Image.Image | Tensor"

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# What PIL turns into RGB without loss of meaning. Others, such as 16 bits a channel, it would cut
# off.
_MODES = ("RGB", "L", "P", "1", "CMYK", "YCbCr")
_MODES_WITH_ALPHA = ("RGBA", "LA", "PA")


def pictures_in(folder: str | Path) -> list[Path]:
    """The picture files of a folder and the folders in it, by name.

    Hidden files are left out, as are unfinished ones that programs name so.

    Raises:
        ValueError: If it is no folder, or has none.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"{folder} is no folder")
    found = sorted(
        path
        for path in place.rglob("*")
        if path.suffix.lower() in _ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(place).parts)
    )
    if not found:
        raise ValueError(
            f"{folder} has no pictures; expected files that end in {', '.join(_ENDINGS)}"
        )
    return found


def pixel_digest(image: Tensor) -> bytes:
    """SHA-256 of the pixels of a picture ``(3, H, W)`` uint8, whatever file they came from."""
    digest = hashlib.sha256("x".join(map(str, image.shape)).encode())
    digest.update(image.contiguous().numpy().tobytes())
    return digest.digest()


class Pictures:
    """A series of pictures, read one at a time.

    Args:
        items: The pictures.
        label: What to call them together.
        square: Take the largest square in the middle of each, and bring it to so many pixels a
            side by PIL's bicubic filter, as is usual for references of mixed sizes. None takes
            pictures as they are.
    """

    def __init__(
        self, items: Iterable[Picture], *, label: str = "", square: int | None = None
    ) -> None:
        self._items = list(items)
        self.label = label
        self.square = None if square is None else check_count("square", square)
        self._size: torch.Size | None = None

    def __len__(self) -> int:
        return len(self._items)

    def name(self, index: int) -> str:
        """What to call a picture in messages."""
        item = self._items[index]
        return str(item) if isinstance(item, (str, Path)) else f"picture {index}"

    def __getitem__(self, index: int) -> Tensor:
        """A picture, ``(3, H, W)`` uint8.

        Raises:
            ValueError: If it can't be read as RGB.
        """
        image = self._read(index)
        if self.square is not None:
            image = resize_bicubic(middle_square(image)[None], self.square)[0]
        if self._size is not None and image.shape != self._size:
            sizes = ["x".join(map(str, size[1:])) for size in (self._size, image.shape)]
            raise ValueError(
                f"{self.name(0)} has {sizes[0]} pixels and {self.name(index)} {sizes[1]}; expected "
                "pictures of one size, or a `square` to bring them to"
            )
        return image

    def of_one_size(self) -> Pictures:
        """The same pictures, but one of another size than the first is an error."""
        same = Pictures(self._items, label=self.label, square=self.square)
        same._size = same[0].shape if self._items else None
        return same

    def _read(self, index: int) -> Tensor:
        item = self._items[index]
        if isinstance(item, Tensor):
            if item.ndim != 3 or item.shape[0] != 3 or item.dtype != torch.uint8:
                raise ValueError(
                    f"{self.name(index)} is {tuple(item.shape)} {item.dtype}; expected (3, H, W) "
                    "torch.uint8"
                )
            return item.cpu()
        if isinstance(item, Image.Image):
            return _pixels(item, self.name(index))
        try:
            with open_picture(Path(item)) as image:
                return _pixels(image, str(item))
        except PictureError as error:
            raise ValueError(f"{item} is no whole picture: {error}") from error


def _pixels(image: Image.Image, name: str) -> Tensor:
    if image.mode in _MODES_WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise ValueError(f"{name} is transparent in places; expected a picture without alpha")
    elif image.mode not in _MODES:
        raise ValueError(
            f"{name} has the mode {image.mode}; expected RGB, grey or another of 8 bits a channel"
        )
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
