"""The family of ChronoEdit, which edits a picture as the last frame of a video."""

from __future__ import annotations

__all__ = ["ChronoEdit"]

from typing import ClassVar

from .wan import Wan


class ChronoEdit(Wan):
    """Wan, whose frames in between are dropped on the way."""

    name: ClassVar[str] = "ChronoEdit"
    denoisers: ClassVar[tuple[str, ...]] = ("ChronoEditTransformer3DModel",)
