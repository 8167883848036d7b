"""Warnings that point to the user's code, however many frames of libraries lie in between."""

from __future__ import annotations

__all__ = ["warn_caller"]

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_PACKAGE = Path(__file__).parents[1]

# What may lie between the user's code and this package: pipelines that call a denoiser, modules
# that call their forward function, and what runs decorated functions and leaves `with` blocks.
_BETWEEN = frozenset(
    {
        "accelerate",
        "contextlib",
        "diffusers",
        "diffusers_modules",  # community pipelines, as diffusers loads them
        "functools",
        "peft",
        "torch",
        "transformers",
    }
)


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of something at the line of the user's code that led to it.

    It is in the innermost frame that is neither this package's nor of a library that calls it: the
    line that calls the pipeline or the denoiser, attaches guidance, or ends a `with` block. If
    there is no such frame, it is the outermost one's.

    Args:
        message: The text of the warning.
        category: The class of the warning.
    """
    for frame in _outwards(sys._getframe(1)):
        place = frame
        if not _is_between(frame):
            break
    # The same as in `warnings.warn`, which has to be told how many frames away the place is.
    warnings.warn_explicit(
        message,
        category,
        place.f_code.co_filename,
        place.f_lineno,
        module=place.f_globals.get("__name__", "<string>"),
        registry=place.f_globals.setdefault("__warningregistry__", {}),
    )


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, its caller, and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_between(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return (
        module.partition(".")[0] in _BETWEEN or _PACKAGE in Path(frame.f_code.co_filename).parents
    )
