"""Names that people mistype, and the nearest right ones."""

from __future__ import annotations

__all__ = ["unknown_name"]

from collections.abc import Collection
from difflib import get_close_matches

_MOST = 100


def unknown_name(name: object, known: Collection[str], what: str) -> str:
    """The message that refuses a name, with the nearest known one.

    Args:
        name: What was given.
        known: The right names.
        what: What the name should be, such as `"a key of a sweep"`.
    """
    shown = str(name)
    if len(shown) > _MOST:  # matching takes the square of the length
        return f"{shown[:_MOST] + '...'!r} is not {what} (there are {', '.join(known)})"
    near = get_close_matches(shown, known, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is not {what}{guess} (there are {', '.join(known)})"
