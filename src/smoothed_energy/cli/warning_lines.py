"""Warnings as lines for the reader of a terminal."""

from __future__ import annotations

__all__ = ["warnings_as_lines"]

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def warnings_as_lines(show: Callable[[str], None]) -> Iterator[None]:
    """Show each warning once, as a line that says ``warning:`` and not where it was raised.

    Args:
        show: Shows a line.
    """
    from .. import GuidanceWarning

    shown: set[str] = set()

    def show_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = " ".join(str(message).split())
        if text not in shown:
            shown.add(text)
            show(f"warning: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", GuidanceWarning)
        warnings.showwarning = show_warning
        yield
