"""The picture that a ControlNet follows, as images keep it: its pixels and their digest."""

from __future__ import annotations

__all__ = ["Followed", "is_kept"]

import base64
import hashlib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_PREFIX = "sha256:"
#: Larger ones would make files many times as large; images then keep the digest only.
_MOST_CHARACTERS = 1_000_000


def is_kept(control: str) -> bool:
    """Whether a setting is the digest of a picture, and not a path."""
    return re.fullmatch(f"{_PREFIX}[0-9a-f]{{64}}", control) is not None


@dataclass(frozen=True)
class Followed:
    """A picture that is followed, in the size of what is drawn.

    Args:
        picture: RGB.
    """

    picture: Image.Image

    @property
    def digest(self) -> str:
        """The digest of its pixels, which stands for it in settings."""
        size = "{}x{} ".format(*self.picture.size).encode()
        return _PREFIX + hashlib.sha256(size + self.picture.tobytes()).hexdigest()

    def as_text(self) -> str | None:
        """A PNG of it as text, None if that is too large to be kept."""
        red, green, blue = self.picture.split()
        one = red.tobytes()
        is_grey = one == green.tobytes() == blue.tobytes()
        plain = red if is_grey else self.picture
        if is_grey and set(one) <= {0, 255}:
            plain = red.convert("1")
        data = io.BytesIO()
        plain.save(data, format="PNG", optimize=True)
        text = base64.b64encode(data.getvalue()).decode("ascii")
        return text if len(text) <= _MOST_CHARACTERS else None
