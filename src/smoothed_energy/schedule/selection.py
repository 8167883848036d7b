r"""Selections of denoising steps.

A step is known by its position: the `index`-th of `count` distinct noise levels of the scheduler's
own list of timesteps, and by its noise level. A `StepSelection` says for a position whether it is
active.

Positions refer to the whole of the list, so that noise levels keep theirs: an image-to-image run
of strength 0.6 starts at fraction 0.4, and one with `denoising_end=0.8` ends at fraction 0.8.

Sources: the interval by fractions is the published study's ("guidance in the first third is
enough"); the one by noise levels is that of Kynkaanniemi et al. (arXiv:2404.07724); the adaptive
one that of Castillo et al. (arXiv:2312.12487), there for classifier-free guidance.
"""

from __future__ import annotations

__all__ = [
    "NAMED_STEPS",
    "Adaptive",
    "AllOf",
    "AnyOf",
    "EveryNth",
    "NoiseLevels",
    "StepSelection",
    "Steps",
    "number_text",
]

import abc
import math
from dataclasses import dataclass

from typing_extensions import override

from ..settings.checks import check_integer, check_number
from ..settings.conversion import set_field
from .position import StepPosition


class StepSelection(abc.ABC):
    """A set of denoising steps: an immutable, hashable value.

    `a | b` is a union and `a & b` an intersection. `str(selection)` is a short text from which
    `as_steps` makes an equal selection, to the last bit of its numbers; it is the JSON form too.
    """

    @abc.abstractmethod
    def active(self, position: StepPosition) -> bool:
        """Whether the step at this position is selected."""

    @property
    def needs_similarity(self) -> bool:
        """Whether `active` depends on `StepPosition.similarity`."""
        return False

    def __or__(self, other: StepSelection) -> AnyOf:
        if not isinstance(other, StepSelection):
            return NotImplemented
        return AnyOf(self, other)

    def __and__(self, other: StepSelection) -> AllOf:
        if not isinstance(other, StepSelection):
            return NotImplemented
        return AllOf(self, other)


@dataclass(frozen=True)
class Steps(StepSelection):
    """The steps with `start <= index / count < stop`.

    Intervals that adjoin, such as 0 to 0.3 and 0.3 to 1, have every step in exactly one of them.
    Rounding loses no step, since a bound within a millionth of a step counts as that step.

    Args:
        start: First fraction of the schedule, in [0, 1).
        stop: Fraction before which it ends, in (0, 1]; more than `start`.

    Raises:
        ValueError: Unless 0 <= start < stop <= 1.
        TypeError: If a bound is not a number.
    """

    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        set_field(self, "start", check_number("start", self.start))
        set_field(self, "stop", check_number("stop", self.stop))
        if not (0 <= self.start <= 1 and 0 <= self.stop <= 1):
            raise ValueError(
                "steps are given as fractions of the schedule, in [0, 1]; "
                f"got start={self.start!r}, stop={self.stop!r}"
            )
        if self.start >= self.stop:
            raise ValueError(
                f"steps must start before they stop; got start={self.start!r}, stop={self.stop!r}"
            )

    @override
    def active(self, position: StepPosition) -> bool:
        first, end = _boundary(self.start, position.count), _boundary(self.stop, position.count)
        return first <= position.index < end

    def __str__(self) -> str:
        return (
            _NAMES.get((self.start, self.stop))
            or f"{number_text(self.start)}:{number_text(self.stop)}"
        )


@dataclass(frozen=True)
class NoiseLevels(StepSelection):
    """The steps with `low < sigma <= high`, wherever they are in the schedule.

    Args:
        low: Noise level above which guidance is on, in [0, inf).
        high: Highest noise level, in (0, inf]; more than `low`.

    Raises:
        ValueError: Unless 0 <= low < high; from `active`, if the position has no noise level.
        TypeError: If a bound is not a number.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        set_field(self, "low", check_number("low", self.low))
        set_field(self, "high", check_number("high", self.high))
        if not (self.low >= 0 and self.high >= 0):
            raise ValueError(
                f"noise levels must lie in [0, inf]; got low={self.low!r}, high={self.high!r}"
            )
        if self.low >= self.high:
            raise ValueError(
                "a noise interval goes from the lower to the higher level; "
                f"got low={self.low!r}, high={self.high!r}"
            )

    @override
    def active(self, position: StepPosition) -> bool:
        if position.sigma is None:
            raise ValueError(
                f"{self} selects steps by noise level, but this scheduler tells none (it has "
                'neither sigmas nor alphas_cumprod); select by fractions, such as "0:0.5"'
            )
        return self.low < position.sigma <= self.high

    def __str__(self) -> str:
        return f"sigma:{number_text(self.low)}:{number_text(self.high)}"


@dataclass(frozen=True)
class EveryNth(StepSelection):
    """The steps `offset`, `offset + n`, `offset + 2 n`, ...

    Args:
        n: Distance between active steps, at least 1.
        offset: Index of the first active step, in [0, n).

    Raises:
        ValueError: If a value is outside its set.
        TypeError: If a value is not an integer.
    """

    n: int
    offset: int = 0

    def __post_init__(self) -> None:
        set_field(self, "n", check_integer("n", self.n))
        set_field(self, "offset", check_integer("offset", self.offset))
        if self.n < 1:
            raise ValueError(f"every n-th step needs n of at least 1; got {self.n}")
        if not 0 <= self.offset < self.n:
            raise ValueError(f"offset must lie in [0, n) = [0, {self.n}); got {self.offset}")

    @override
    def active(self, position: StepPosition) -> bool:
        return position.index % self.n == self.offset

    def __str__(self) -> str:
        return f"every:{self.n}" + (f",offset={self.offset}" if self.offset else "")


@dataclass(frozen=True)
class Adaptive(StepSelection):
    """All steps until the perturbed prediction has come close to the clean one in some step.

    From then on guidance has little left to do, and the rest of the run saves its second passes.
    Predictions of noise become alike in the course of a run; those of velocities need not.

    Args:
        threshold: The cosine of the two predictions at which guidance ends, in (0, 1].

    Raises:
        ValueError: If it is outside.
        TypeError: If it is not a number.
    """

    threshold: float

    def __post_init__(self) -> None:
        set_field(self, "threshold", check_number("threshold", self.threshold))
        if not 0 < self.threshold <= 1:
            raise ValueError(f"a threshold is a cosine, in (0, 1]; got {self.threshold!r}")

    @override
    def active(self, position: StepPosition) -> bool:
        return position.similarity is None or position.similarity < self.threshold

    @property
    @override
    def needs_similarity(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"adaptive:{number_text(self.threshold)}"


@dataclass(frozen=True, init=False)
class _Combination(StepSelection):
    """Several selections together; a combination of the same kind inside is unfolded."""

    selections: tuple[StepSelection, ...]

    def __init__(self, *selections: StepSelection) -> None:
        flat: list[StepSelection] = []
        for part in selections:
            if not isinstance(part, StepSelection):
                raise TypeError(f"{type(self).__name__} takes step selections; got {part!r}")
            flat.extend(part.selections if isinstance(part, type(self)) else [part])
        if len(flat) < 2:
            raise ValueError(f"{type(self).__name__} needs at least two step selections")
        set_field(self, "selections", tuple(flat))

    @property
    @override
    def needs_similarity(self) -> bool:
        return any(part.needs_similarity for part in self.selections)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.selections))})"


class AnyOf(_Combination):
    """The union of step selections: active where any is.

    Raises:
        ValueError: If fewer than two are given.
        TypeError: If something else than a `StepSelection` is given.
    """

    @override
    def active(self, position: StepPosition) -> bool:
        return any(part.active(position) for part in self.selections)

    def __str__(self) -> str:
        return "+".join(map(str, self.selections))


class AllOf(_Combination):
    """The intersection of step selections: active where all are.

    Raises:
        ValueError: If fewer than two are given.
        TypeError: If something else than a `StepSelection` is given.
    """

    @override
    def active(self, position: StepPosition) -> bool:
        return all(part.active(position) for part in self.selections)

    def __str__(self) -> str:
        return "&".join(
            f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.selections
        )


NAMED_STEPS = {
    "all": Steps(0, 1),
    "begin": Steps(0, 1 / 3),
    "mid": Steps(1 / 3, 2 / 3),
    "end": Steps(2 / 3, 1),
}
"""The parts of a schedule that have a name."""

_NAMES = {(steps.start, steps.stop): name for name, steps in NAMED_STEPS.items()}


def _boundary(fraction: float, count: int) -> int:
    """The first index that is not before a fraction of the schedule."""
    return math.ceil(fraction * count - 1e-6)


def number_text(value: float) -> str:
    """The shortest text that reads back as the same number, without a "+" in it."""
    return repr(int(value) if value.is_integer() else value).replace("e+", "e")
