"""Checks of the values of settings, each with one message wherever it is made.

A check takes a setting's name and value, and returns the value as its one type, or raises: a
`SettingTypeError` for a value of a wrong type, a `ValueError` for one outside its set.
"""

from __future__ import annotations

__all__ = [
    "SettingTypeError",
    "check_choice",
    "check_count",
    "check_integer",
    "check_number",
    "check_odd",
    "check_positive",
    "check_text",
    "check_unit",
    "number_or_nan",
    "refusal",
]

import math
import operator
from collections.abc import Sequence
from numbers import Integral
from typing import Any

#: How much of a text that is refused is shown.
_SHOWN = 40


class SettingTypeError(TypeError, ValueError):
    """A setting's value of a wrong type.

    It is a `ValueError` too, since settings also come as text or JSON, where a wrong type is just
    one more wrong value.
    """


def number_or_nan(value: object) -> float:
    """A number as a float; nan for everything else, truth values and texts included."""
    number = _as_float(value)
    return math.nan if number is None else number


def refusal(value: object, message: str) -> ValueError:
    """The exception that refuses a value where a number is expected."""
    return SettingTypeError(message) if _as_float(value) is None else ValueError(message)


def check_number(name: str, value: object) -> float:
    """A number, also an infinite one or nan.

    Raises:
        SettingTypeError: If it is no number.
    """
    number = _as_float(value)
    if number is None:
        raise SettingTypeError(f"{name}={value!r}: expected a number")
    return number


def check_positive(name: str, value: object) -> float:
    """A finite number above 0.

    Raises:
        SettingTypeError: If it is no number.
        ValueError: If it is another number.
    """
    number = number_or_nan(value)
    if not 0 < number < math.inf:
        raise refusal(value, f"{name}={value!r}: expected a finite number > 0")
    return number


def check_unit(name: str, value: object) -> float:
    """A number in [0, 1].

    Raises:
        SettingTypeError: If it is no number.
        ValueError: If it is another number.
    """
    number = number_or_nan(value)
    if not 0 <= number <= 1:
        raise refusal(
            value,
            f"{name} must lie in [0, 1]; got {value!r}, expected a number from 0 (none) to 1 (all)",
        )
    return number


def check_integer(name: str, value: object) -> int:
    """An integer. A float is none, even a whole one.

    Raises:
        SettingTypeError: If it is no integer.
    """
    number = _as_integer(value)
    if number is None:
        raise SettingTypeError(f"{name}={value!r}: expected an integer")
    return number


def check_odd(name: str, value: object) -> int:
    """A positive odd integer. A float is none, even a whole one.

    Raises:
        SettingTypeError: If it is no integer.
        ValueError: If it is another integer.
    """
    number = _as_integer(value)
    if number is None or number < 1 or number % 2 == 0:
        message = f"{name} must be a positive odd integer (1, 3, 5, ...); got {value!r}"
        raise SettingTypeError(message) if number is None else ValueError(message)
    return number


def check_count(name: str, value: object, least: int = 1) -> int:
    """An integer from a least one up; a whole number of another type counts, such as 3.0.

    Raises:
        SettingTypeError: If it is no number.
        ValueError: If it is another number.
    """
    # A float has no room for every large integer.
    exact = isinstance(value, Integral) and not isinstance(value, bool)
    number: Any = value if exact else number_or_nan(value)
    if not number >= least or number % 1:
        raise refusal(value, f"{name}={value!r}: expected an integer >= {least}")
    return int(number)


def check_text(name: str, text: str, most: int = 4_000) -> None:
    """Refuse text that is no Unicode, or endless.

    Args:
        name: How an error names it.
        text: The text.
        most: The most characters that it may have.

    Raises:
        ValueError: If it is.
    """
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
    if len(text) > most:
        raise ValueError(f"{name} {shown} has {len(text)} characters; expected at most {most}")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(
            f"{name} {shown} is no text: it holds bytes that are not UTF-8, or half a surrogate "
            "pair; expected Unicode"
        )
    if "\0" in text:
        raise ValueError(f"{name} {shown} holds a NUL character; expected text")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is not one of the choices.

    Raises:
        SettingTypeError: If it is no text.
        ValueError: If it is another text.
    """
    if isinstance(value, str) and value in choices:
        return
    expected = ", ".join(map(repr, choices))
    message = f"{name}={value!r} is not known; expected one of {expected}; got {value!r}"
    raise ValueError(message) if isinstance(value, str) else SettingTypeError(message)


def _as_float(value: Any) -> float | None:
    """A number as a float, and None for everything else; -0.0 becomes 0.0."""
    if _is_truth_value(value) or isinstance(value, (str, bytes, bytearray)):
        return None
    try:
        return float(value) + 0.0
    except (TypeError, ValueError, OverflowError):
        return None


def _as_integer(value: Any) -> int | None:
    """An integer as an `int`, and None for everything else."""
    try:
        return None if _is_truth_value(value) else operator.index(value)
    except TypeError:
        return None


def _is_truth_value(value: Any) -> bool:
    """Whether a value is true or false, to Python, NumPy or torch."""
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
