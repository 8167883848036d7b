"""Step selections read from text."""

from __future__ import annotations

__all__ = ["FORMS", "read_steps"]

import math
import re

from .selection import (
    NAMED_STEPS,
    Adaptive,
    AllOf,
    AnyOf,
    EveryNth,
    NoiseLevels,
    Steps,
    StepSelection,
)

FORMS = (
    '"all"',
    '"begin"',
    '"mid"',
    '"end"',
    '"0:0.33" (fractions of the schedule)',
    '"sigma:0.5:5" (noise levels)',
    '"every:2"',
    '"every:2,offset=1"',
    '"adaptive:0.999"',
    'unions "begin+end"',
    'intersections "begin&every:2"',
)
"""Examples of valid texts, which the errors list."""


def read_steps(text: str) -> StepSelection:
    """The selection that a text describes, as `as_steps` tells.

    Raises:
        ValueError: If the text has no valid form (the message lists the forms), or a value is
            outside its set.
    """
    return _Parser(text).selection()


class _Parser:
    """A recursive descent through the text of a selection.

    A union has intersections as its parts, an intersection has atoms, and an atom is one kind of
    selection or a union in parentheses.
    """

    _NUMBER = r"(?:inf|nan|-?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?(?:/\d+)?)"
    _ATOMS = re.compile(
        rf"""\s*(?:
            (?P<name>all|begin|mid|end)\b
          | (?:(?P<sigma>sigma)\s*:\s*)?(?P<low>{_NUMBER})\s*[:-]\s*(?P<high>{_NUMBER})
          | every\s*:\s*(?P<n>\d+)(?:\s*,\s*offset\s*=\s*(?P<offset>\d+))?
          | adaptive\s*:\s*(?P<threshold>{_NUMBER})
        )\s*""",
        re.VERBOSE,
    )

    def __init__(self, text: str) -> None:
        self.original = text
        self.rest = text.lower().strip()

    def selection(self) -> StepSelection:
        result = self._union()
        if self.rest:
            raise self._error()
        return result

    def _union(self) -> StepSelection:
        parts = [self._intersection()]
        while self._take("+") or self._take(","):
            parts.append(self._intersection())
        return parts[0] if len(parts) == 1 else AnyOf(*parts)

    def _intersection(self) -> StepSelection:
        parts = [self._atom()]
        while self._take("&"):
            parts.append(self._atom())
        return parts[0] if len(parts) == 1 else AllOf(*parts)

    def _atom(self) -> StepSelection:
        if self._take("("):
            inner = self._union()
            if not self._take(")"):
                raise self._error()
            return inner
        match = self._ATOMS.match(self.rest)
        if match is None:
            raise self._error()
        self.rest = self.rest[match.end() :]
        if match["name"]:
            return NAMED_STEPS[match["name"]]
        if match["n"]:
            return EveryNth(int(match["n"]), int(match["offset"] or 0))
        if match["threshold"]:
            return Adaptive(_fraction(match["threshold"]))
        low, high = (_fraction(match[group]) for group in ("low", "high"))
        return NoiseLevels(low, high) if match["sigma"] else Steps(low, high)

    def _take(self, symbol: str) -> bool:
        if not self.rest.startswith(symbol):
            return False
        self.rest = self.rest[len(symbol) :].lstrip()
        return True

    def _error(self) -> ValueError:
        return ValueError(f"unknown steps {self.original!r}; valid are {', '.join(FORMS)}")


def _fraction(text: str) -> float:
    """The value of a number such as `0.5` or `1/3`; nan if it is divided by zero."""
    numerator, _, denominator = text.partition("/")
    if denominator and int(denominator) == 0:
        return math.nan
    return float(numerator) / int(denominator or 1)
