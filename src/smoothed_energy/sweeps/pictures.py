"""The folder of pictures: written so that a file is whole or not there, and found again by id.

A picture is done when its file is there and whole: a PNG whose checksums are right to its end, with
its own id in it. Nothing else is kept of what is done, so nothing can contradict the files.
"""

from __future__ import annotations

__all__ = ["Drawn", "PictureFolder"]

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..files.whole_file import UNFINISHED, whole_file
from ..report.png import KEY, VERSION

_FOLDER = "pictures"
# The last chunk of a PNG: no data, its name, its checksum.
_END = b"\0\0\0\0IEND\xaeB`\x82"
#: Older unfinished files are nobody's, in seconds.
_ABANDONED = 3600.0


@dataclass(frozen=True)
class Drawn:
    """A picture that is there.

    Args:
        width: In pixels.
        height: In pixels.
        facts: What was noted of its run; the same whenever it is drawn.
    """

    width: int
    height: int
    facts: Mapping[str, Any] = field(default_factory=dict)


class PictureFolder:
    """Pictures by id, under `pictures/` in two hundred and fifty-six folders.

    Args:
        root: The folder of the sweep.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def relative_path(self, picture: str) -> str:
        """Where a picture is, from the sweep's folder."""
        return f"{_FOLDER}/{picture[:2]}/{picture}.png"

    def path(self, picture: str) -> Path:
        """Where a picture is."""
        return self.root / self.relative_path(picture)

    def write(self, picture: str, image: Image.Image, memory: Mapping[str, Any]) -> None:
        """Write a picture: to a file beside it, on to the disk, and then under its name.

        Args:
            picture: Its id.
            image: The picture.
            memory: What its file says of it, as JSON values; `id` is added.

        Raises:
            OSError: If it can't be written; what was there before stays.
        """
        info = PngInfo()
        text = {"version": VERSION, "id": picture, **memory}
        info.add_text(KEY, json.dumps(text, allow_nan=False, sort_keys=True))
        encoded = BytesIO()
        image.save(encoded, format="PNG", pnginfo=info)
        with whole_file(self.path(picture)) as file:
            file.write(encoded.getbuffer())

    def read(self, picture: str) -> Drawn | None:
        """A picture if it is there and whole, every byte of it checked; else None."""
        return self._read(picture, whole=True)

    def glance(self, picture: str) -> Drawn | None:
        """A picture if it is there and has its beginning and its end; else None.

        It reads the first and the last bytes only, for pictures that were checked or written in
        this run.
        """
        return self._read(picture, whole=False)

    def _read(self, picture: str, *, whole: bool) -> Drawn | None:
        try:
            with self.path(picture).open("rb") as file:
                file.seek(-len(_END), os.SEEK_END)
                if file.read() != _END:
                    return None
                file.seek(0)
                image = Image.open(file, formats=["PNG"])
                memory = json.loads(image.info.get(KEY, "{}"))
                if memory.get("id") != picture or memory.get("version") != VERSION:
                    return None
                drawn = Drawn(*image.size, memory.get("facts", {}))
                if whole:
                    image.verify()  # the checksum of every chunk, so of every byte
                return drawn
        except (OSError, SyntaxError, ValueError, AttributeError, RecursionError):
            # What is not there, is cut off, or is no picture of ours: to be drawn.
            return None

    def forget_unfinished(self) -> None:
        """Remove what killed workers left half written, if it is older than an hour."""
        oldest = time.time() - _ABANDONED
        for path in (self.root / _FOLDER).glob(f"*/.*{UNFINISHED}"):
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:
                continue  # another run was faster
