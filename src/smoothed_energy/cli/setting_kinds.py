"""The kinds of values that a setting can have, on the command line and in an image's JSON."""

from __future__ import annotations

__all__ = [
    "FLAG",
    "MOST_PIXELS_A_SIDE",
    "NUMBER",
    "NUMBER_OR_TEXT",
    "PATH",
    "PICTURE",
    "SIZE",
    "TEXT",
    "TEXTS",
    "TEXT_OR_NONE",
    "Kind",
    "check_size",
    "check_texts",
    "integer_from",
    "parse_size",
]

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings.checks import check_text

#: The most characters of a prompt, and of any other text. No text encoder reads as many.
MOST_OF_PROMPT, MOST_OF_TEXT = 20_000, 4_000


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Kind:
    """A kind of values.

    Args:
        words: What an error says is expected.
        accepts: Whether a value of an image's JSON is of this kind.
        option_type: The type that Typer reads the option as.
        from_option: The setting for what Typer read.
        from_json: The setting for a value of JSON, or for one that is a setting already.
        least: The smallest number.
    """

    words: str
    accepts: Callable[[Any], bool]
    option_type: Any = str
    from_option: Callable[[Any], Any] = _unchanged
    from_json: Callable[[Any], Any] = _unchanged
    least: int | None = None


def integer_from(least: int) -> Kind:
    """Integers of at least this."""
    return Kind(
        f"an integer >= {least}",
        lambda value: _is_integer(value) and value >= least,
        int,
        least=least,
    )


#: The longest side of a picture, in pixels.
MOST_PIXELS_A_SIDE = 16_384


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from ``HEIGHTxWIDTH``.

    Raises:
        ValueError: If the text is not a size, or diffusers' pipelines could not draw it.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip())
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) == 0 or size[0] % 8 or size[1] % 8:
        raise ValueError(
            f"--size {text}: expected HEIGHTxWIDTH in pixels, both multiples of 8, such as 768x512"
        )
    check_size(size)
    return size


def check_size(size: Sequence[int]) -> None:
    """Refuse sizes that no model draws.

    Raises:
        ValueError: If it is one.
    """
    if max(size) > MOST_PIXELS_A_SIDE:
        raise ValueError(
            f"--size {size[0]}x{size[1]}: expected at most {MOST_PIXELS_A_SIDE} pixels a side"
        )


def check_texts(name: str, value: Any) -> None:
    """Refuse text that is no Unicode, or endless.

    Args:
        name: How an error names it.
        value: A text or several; anything else is not looked at.

    Raises:
        ValueError: If it is.
    """
    for text in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(text, str):
            check_text(name, text, MOST_OF_PROMPT if "prompt" in name.lower() else MOST_OF_TEXT)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:  # an integer that no float has room for
        return False
    return True


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list) and len(value) == 2 else [0]
    return all(_is_integer(side) and side > 0 and side % 8 == 0 for side in sides)


def _number_or_text(value: Any) -> float | str:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


TEXT = Kind("a text", _is_text)
TEXT_OR_NONE = Kind("a text or None", _is_text_or_none)
NUMBER = Kind("a number", _is_number, float, from_json=float)
NUMBER_OR_TEXT = Kind(
    "a number or a text",
    lambda value: _is_number(value) or _is_text(value),
    from_json=_number_or_text,
)
#: An option that can be given more than once.
TEXTS = Kind(
    "a list of texts",
    lambda value: isinstance(value, list) and all(map(_is_text, value)),
    list[str],
    from_option=lambda texts: texts or None,
    from_json=tuple,
)
SIZE = Kind(
    "None or a list of height and width, multiples of 8",
    lambda value: value is None or _is_size(value),
    from_option=parse_size,
    from_json=tuple,
)
FLAG = Kind("True or False", lambda value: isinstance(value, bool), bool)
#: The path of a picture, kept as a text, since an image remembers it.
PICTURE = Kind("a text or None", _is_text_or_none, Path, from_option=str)
#: A path of this run, which no image remembers.
PATH = Kind("a path", lambda value: isinstance(value, Path), Path)
