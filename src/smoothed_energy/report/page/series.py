"""What plots are drawn from: axes, lines and points."""

from __future__ import annotations

__all__ = ["Line", "PlotAxes", "Points", "numbers_of"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...settings.conversion import set_field
from .number import Number


@dataclass(frozen=True)
class PlotAxes:
    """The axes of a plot.

    Args:
        x: What is along x, with its unit.
        y: What is along y, with its unit.
        x_log: Whether x is logarithmic.
        y_log: Whether y is logarithmic.
        guides: Values of y (of x in an `interval_plot`) with a line of their own, by its label,
            such as ``{"unguided": 53.4}``.
    """

    x: str
    y: str = ""
    x_log: bool = False
    y_log: bool = False
    guides: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Args:
        label: Its name.
        x: Where its points are: numbers, or texts at equal distances, such as ``("1", "10", "∞")``.
        y: Its values; their intervals make a band.

    Raises:
        ValueError: If it has no points, not a value for each, or an infinite one.
    """

    label: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float | Number]

    def __post_init__(self) -> None:
        if not len(self.x) or len(self.x) != len(self.y):
            raise ValueError(
                f"the line {self.label!r} has {len(self.y)} values at {len(self.x)} places; "
                "expected as many of both, at least one"
            )
        x = [at if isinstance(at, str) else numbers_of([at])[0].value for at in self.x]
        set_field(self, "x", tuple(x))
        set_field(self, "y", tuple(numbers_of(self.y)))


@dataclass(frozen=True)
class Points:
    """Points of a plot that have two measured numbers each, such as a distance and a CLIP score.

    Args:
        label: Their name.
        x: Their numbers along x.
        y: Their numbers along y.
        names: What each is, written beside it. Default: nothing.
        joined: Whether a line leads from each to the next.

    Raises:
        ValueError: If there are none, not as many of everything, or an infinite number.
    """

    label: str
    x: Sequence[float | Number]
    y: Sequence[float | Number]
    names: Sequence[str] = ()
    joined: bool = False

    def __post_init__(self) -> None:
        sizes = {len(self.x), len(self.y), len(self.names) or len(self.x)}
        if len(sizes) > 1 or not len(self.x):
            raise ValueError(
                f"the points {self.label!r} have {len(self.x)} x, {len(self.y)} y and "
                f"{len(self.names)} names; expected as many of each, at least one"
            )
        set_field(self, "x", tuple(numbers_of(self.x)))
        set_field(self, "y", tuple(numbers_of(self.y)))
        set_field(self, "names", tuple(self.names))


def numbers_of(values: Sequence[float | Number]) -> list[Number]:
    """Values as `Number`, whether they have intervals or not.

    Raises:
        ValueError: If one is infinite.
    """
    numbers = [value if isinstance(value, Number) else Number(value) for value in values]
    for number in numbers:
        if not math.isfinite(number.value):
            raise ValueError(
                f"{number.value!r} can't be drawn; expected finite numbers, or texts along x"
            )
    return numbers
