"""Checks of settings that several modules make, each with the message that all of them give."""

from __future__ import annotations

__all__ = ["check_choice", "check_count", "check_positive", "check_unit", "number_or_nan"]

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def number_or_nan(value: object) -> float:
    """A number as a float; nan for everything else, truth values included."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is not one of the choices.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{name}={value!r} is not known; expected one of {expected}")


def check_count(name: str, value: object, least: int = 1) -> int:
    """An integer, also as another number of the same value.

    Raises:
        ValueError: If it is none, or below the least.
    """
    # As a float, a large integer would be another one.
    exact = isinstance(value, Integral) and not isinstance(value, bool)
    number: Any = value if exact else number_or_nan(value)
    if not number >= least or number % 1:
        raise ValueError(f"{name}={value!r}: expected an integer >= {least}")
    return int(number)


def check_positive(name: str, value: object) -> float:
    """A finite number above 0.

    Raises:
        ValueError: If it is none.
    """
    number = number_or_nan(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name}={value!r}: expected a finite number > 0")
    return number


def check_unit(name: str, value: object) -> float:
    """A number in [0, 1].

    Raises:
        ValueError: If it is none.
    """
    number = number_or_nan(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name}={value!r}: expected a number in [0, 1]")
    return number
