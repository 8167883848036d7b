"""A measured number with its interval, and how numbers of one kind are written."""

from __future__ import annotations

__all__ = ["Number", "choose_decimals", "format_number"]

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from ...settings.checks import check_number
from ...settings.conversion import set_field

DIGITS = 4  # that the largest number without an interval shows
INTERVAL_DIGITS = 2  # that half of a typical interval shows
DECIMALS_MOST = 6  # more would be zeros to read over; such numbers are written with an exponent


@dataclass(frozen=True)
class Number:
    """A number, and what is known of its uncertainty.

    Args:
        value: The number. It may be infinite (a sigma), but then has no interval.
        low: The lower end of its interval; None if there is no interval.
        high: The upper end. The number itself may lie outside, since estimates by resampling may be
            biased (Frechet distances are).
        kind: What was measured, and how: metric, extractor, resize. Numbers of two kinds never
            stand in one column. Empty: of the kind of the column that it stands in.

    Raises:
        SettingTypeError: If something is no number.
        ValueError: If it is nan, or its interval has one end, infinite ends or no order.
    """

    value: float
    low: float | None = None
    high: float | None = None
    kind: str = ""

    def __post_init__(self) -> None:
        value = check_number("value", self.value)
        if math.isnan(value):
            raise ValueError("value=nan: expected a number; what is missing from a table is None")
        set_field(self, "value", value)
        if (self.low is None) != (self.high is None):
            raise ValueError(
                f"low={self.low!r}, high={self.high!r}: expected both ends of an interval, or none"
            )
        if self.low is None or self.high is None:
            return
        low, high = check_number("low", self.low), check_number("high", self.high)
        if not (-math.inf < low <= high < math.inf and math.isfinite(value)):
            raise ValueError(
                f"value={value!r}, low={low!r}, high={high!r}: expected finite numbers, and an "
                "interval from low to high"
            )
        set_field(self, "low", low)
        set_field(self, "high", high)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def choose_decimals(numbers: Iterable[Number]) -> int:
    """How many decimals the numbers of a column need, all with the same.

    Two digits of half of a typical interval are shown, or four digits of the largest number where
    there are no intervals, and never more than the numbers have. -1 stands for an exponent.
    """
    numbers = list(numbers)
    finite = [abs(n.value) for n in numbers if math.isfinite(n.value)]
    largest = max(finite, default=0.0)
    if largest == 0:
        return 0
    halves = [(n.high - n.low) / 2 for n in numbers if n.low is not None and n.high is not None]
    halves = [half for half in halves if half > 0]
    if halves:
        wanted = INTERVAL_DIGITS - 1 - _exponent(statistics.median(halves))
    else:
        wanted = DIGITS - 1 - _exponent(largest)
    ends = [end for n in numbers if n.interval is not None for end in n.interval]
    decimals = max(0, min(wanted, max(_decimals_of(number) for number in [*finite, *ends])))
    return decimals if decimals <= DECIMALS_MOST else -1


def format_number(value: float, decimals: int) -> str:
    """A number with so many decimals, or with an exponent for -1, in plain ASCII but for ``∞``."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if decimals < 0:
        return f"{value:.{DIGITS - 1}e}"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text  # no "-0.0"


def _exponent(value: float) -> int:
    return math.floor(math.log10(value))


def _decimals_of(value: float) -> int:
    """How many decimals the shortest text of a number has."""
    mantissa, _, exponent = repr(float(value)).partition("e")
    fraction = mantissa.partition(".")[2].rstrip("0")
    return max(0, len(fraction) - int(exponent or 0))
