"""Errors that say that there is not enough memory."""

from __future__ import annotations

__all__ = ["is_out_of_memory"]

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so; devices have classes of their own for it, or none."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)
