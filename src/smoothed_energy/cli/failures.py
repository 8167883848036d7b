"""Failures that are not defects of this program, as lines for whoever runs it."""

from __future__ import annotations

__all__ = ["message_of", "telling_memory"]

from collections.abc import Iterator
from contextlib import contextmanager

from ..models.memory import is_out_of_memory

_PACKAGE = __name__.partition(".")[0]


def message_of(error: BaseException) -> str | None:
    """What a failure says, None if it is a defect, which keeps its traceback."""
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, OSError):
        named = "" if error.filename is None else f"{error.filename}: "
        return f"{named}{error.strerror or error}"
    if is_out_of_memory(error):
        return f"out of memory ({str(error) or type(error).__name__})"
    if isinstance(error, RecursionError):
        return "something is nested too deeply to be read"
    if isinstance(error, RuntimeError) and type(error).__module__.partition(".")[0] == _PACKAGE:
        return str(error)
    return None


@contextmanager
def telling_memory(doing: str) -> Iterator[None]:
    """A block that may need more memory than there is.

    Args:
        doing: What is done in it.

    Raises:
        ValueError: If it does.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"out of memory while {doing}; expected a smaller --size or --batch-size, --dtype "
            f"float16 or bfloat16, or another --device ({error or type(error).__name__})"
        ) from error
