r"""Guidance scales that change over the steps.

A scale is a number, or a `ScaleSchedule` of the step's position $u = i / (n - 1)$, from 0 at the
first of the $n$ noise levels of the schedule to 1 at the last.

| value | scale at $u$ |
|---|---|
| `3.0` | 3 at all steps |
| `"linear:3:0"`, `LinearScale(3, 0)` | $3 (1 - u)$ |
| `"cosine:3:0"`, `CosineScale(3, 0)` | $3 (1 + \cos \pi u) / 2$ |
| `"table:3:3:1"`, `ScaleTable(3, 3, 1)` | 3 in the first two thirds of the steps, then 1 |
"""

from __future__ import annotations

__all__ = [
    "CosineScale",
    "LinearScale",
    "ScaleSchedule",
    "ScaleTable",
    "as_scale",
    "check_scale",
    "scale_at",
]

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from ..settings.checks import number_or_nan, refusal
from ..settings.conversion import set_field
from .position import StepPosition


class ScaleSchedule(ABC):
    """A scale for every step: an immutable, hashable value whose `str` is read by `as_scale`."""

    @abstractmethod
    def at(self, position: StepPosition) -> float:
        """The scale of the step at this position."""

    @property
    @abstractmethod
    def values(self) -> tuple[float, ...]:
        """The numbers in its text."""


@dataclass(frozen=True)
class _Ramp(ScaleSchedule):
    """From one scale at the first step to another at the last.

    Args:
        start: The scale of the first step.
        stop: The scale of the last step.

    Raises:
        ValueError: If `start` or `stop` is no guidance scale.
    """

    name: ClassVar[str]

    start: float
    stop: float

    def __post_init__(self) -> None:
        set_field(self, "start", check_scale(self.start, "start"))
        set_field(self, "stop", check_scale(self.stop, "stop"))

    @property
    @override
    def values(self) -> tuple[float, ...]:
        return self.start, self.stop

    @override
    def at(self, position: StepPosition) -> float:
        last = position.count - 1
        progress = self._progress(position.index / last if last else 0.0)
        return (1 - progress) * self.start + progress * self.stop

    @abstractmethod
    def _progress(self, fraction: float) -> float:
        """How far the scale has gone from start to stop, from 0 at 0 to 1 at 1."""

    def __str__(self) -> str:
        return f"{self.name}:{self.start!r}:{self.stop!r}"


@dataclass(frozen=True)
class LinearScale(_Ramp):
    r"""$\gamma_0 + u\,(\gamma_1 - \gamma_0)$ from the first step to the last."""

    name = "linear"

    @override
    def _progress(self, fraction: float) -> float:
        return fraction


@dataclass(frozen=True)
class CosineScale(_Ramp):
    r"""$\gamma_0 + \frac{1 - \cos \pi u}{2} (\gamma_1 - \gamma_0)$: slow at its ends."""

    name = "cosine"

    @override
    def _progress(self, fraction: float) -> float:
        return (1 - math.cos(math.pi * fraction)) / 2


@dataclass(frozen=True, init=False)
class ScaleTable(ScaleSchedule):
    """Scales for equal parts of the schedule, one after the other.

    Args:
        values: The scales; the i-th of N is for the steps of the i-th of N equal parts.

    Raises:
        ValueError: If no value is given, or one is no guidance scale.
    """

    table: tuple[float, ...]

    def __init__(self, *values: float) -> None:
        if not values:
            raise ValueError("a table of scales is empty; expected one or more numbers")
        set_field(self, "table", tuple(check_scale(value, "value") for value in values))

    @property
    @override
    def values(self) -> tuple[float, ...]:
        return self.table

    @override
    def at(self, position: StepPosition) -> float:
        return self.table[position.index * len(self.table) // position.count]

    def __repr__(self) -> str:
        return f"ScaleTable({', '.join(map(repr, self.table))})"

    def __str__(self) -> str:
        return "table:" + ":".join(map(repr, self.table))


_RAMPS = {"linear": LinearScale, "cosine": CosineScale}
_FORMS = "a finite number >= -1, linear:START:STOP, cosine:START:STOP or table:A:B:..."


def check_scale(value: object, name: str = "scale") -> float:
    """A number as a guidance scale.

    Raises:
        ValueError: Unless it is a finite number of at least -1.
    """
    number = number_or_nan(value)
    if not -1 <= number < math.inf:
        raise refusal(
            value,
            f"{name}={value!r} is not a guidance scale; expected a finite number >= -1 "
            "(0 is no guidance, -1 the perturbed prediction alone; the paper uses 3)",
        )
    return number


def as_scale(value: float | ScaleSchedule | str) -> float | ScaleSchedule:
    """A scale from a number, a schedule, or the text of either.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(value, ScaleSchedule):
        return value
    if not isinstance(value, str):
        return check_scale(value)
    kind, *numbers = (part.strip() for part in value.split(":"))
    try:
        if not numbers:
            return check_scale(float(kind))
        scales = [float(number) for number in numbers]
    except ValueError:
        raise ValueError(f"scale={value!r} is not a guidance scale; expected {_FORMS}") from None
    if kind in _RAMPS and len(scales) == 2:
        return _RAMPS[kind](*scales)
    if kind == "table":
        return ScaleTable(*scales)
    raise ValueError(f"scale={value!r} is not a guidance scale; expected {_FORMS}")


def scale_at(scale: float | ScaleSchedule, position: StepPosition) -> float:
    """The scale of a step."""
    return scale.at(position) if isinstance(scale, ScaleSchedule) else scale
