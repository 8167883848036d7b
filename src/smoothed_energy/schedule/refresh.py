r"""When a difference of predictions is made anew, and what stands for it in between.

Guidance adds $\gamma\,d$ with $d = s - \tilde s$, and $\tilde s$ costs a second pass. From step to
step $d$ changes much while there is mostly noise, and little later, so most second passes can be
saved.

| value | second passes at |
|---|---|
| `1` | every guided step |
| `"every:3"`, `3`, `EveryStep(3)` | the first guided step and every third after it |
| `"early:9"`, `EarlySteps(9)` | nine steps, dense where there is mostly noise |
| `"drift:0.15"`, `Drift(0.15)` | steps by which the clean prediction has moved by 15 % |

In between, $d$ is the last one, $d_1$, or goes on as it went from the one before, $d_0$:
$d_1 + e\,\frac{x - x_1}{x_1 - x_0} (d_1 - d_0)$ with $x = -\log\sigma$ and a factor $e$ that is
written `"early:9,extrapolate=0.5"`: 0.8 for `early` and `drift` unless told otherwise, and 0 for
`every`, which holds the last one.
"""

from __future__ import annotations

__all__ = ["ALL_STEPS_ANEW", "Drift", "EarlySteps", "EveryStep", "Refresh", "Since", "as_refresh"]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from typing_extensions import override

from ..settings.checks import check_count, check_positive, check_unit
from ..settings.conversion import set_field
from .position import StepPosition
from .selection import number_text


@dataclass(frozen=True)
class Since:
    """What has happened in a run since its last second pass.

    Args:
        passes: How many second passes there were in the run, at least 1.
        steps: How many guided steps ago the last one was, at least 1.
        drift: How far the clean prediction has moved since then, relative to its norm: of the
            sample in which it moved most. Asked only by those that need it.
    """

    passes: int
    steps: int
    drift: Callable[[], float]


@dataclass(frozen=True)
class Refresh(ABC):
    """A rule for second passes: an immutable, hashable value whose `str` is read by `as_refresh`.

    Args:
        extrapolate: How much of the trend of the last two differences is followed in between, in
            [0, 1]; 0 holds the last one.

    Raises:
        ValueError: If it is outside.
    """

    _: KW_ONLY
    extrapolate: float = 0.0

    #: Whether `due` asks for the drift, which is known only after the clean pass.
    needs_clean: ClassVar[bool] = False

    def __post_init__(self) -> None:
        set_field(self, "extrapolate", check_unit("extrapolate", self.extrapolate))

    @abstractmethod
    def due(self, position: Callable[[], StepPosition], since: Since) -> bool:
        """Whether a guided step has a second pass; the first one of a run always has.

        Args:
            position: Where the step is in its schedule, asked only if it matters.
            since: What has happened since the last one.
        """

    @property
    @abstractmethod
    def _text(self) -> str:
        """Its name and number."""

    def __str__(self) -> str:
        # As a class attribute it is the default.
        usual = type(self).extrapolate
        same = self.extrapolate == usual
        return self._text + ("" if same else f",extrapolate={number_text(self.extrapolate)}")


@dataclass(frozen=True)
class EveryStep(Refresh):
    """The first guided step and every n-th guided step after it.

    Args:
        n: The distance, at least 1.

    Raises:
        ValueError: If it is less.
    """

    n: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "n", check_count("every", self.n))

    @override
    def due(self, position: Callable[[], StepPosition], since: Since) -> bool:
        return since.steps >= self.n

    @property
    @override
    def _text(self) -> str:
        return f"every:{self.n}"


#: A second pass at every guided step.
ALL_STEPS_ANEW = EveryStep()


@dataclass(frozen=True)
class EarlySteps(Refresh):
    r"""At most so many steps of a whole schedule, dense where there is mostly noise.

    The way from noise to picture is measured by the angle $\arctan(1 / \sigma)$, and the j-th of N
    second passes is due where the share $(j / N)^p$ of it lies behind. A schedule without noise
    levels is measured by its steps. Guidance in a part of the steps has a part of these passes.

    Args:
        count: How many, at least 1.
        power: p, above 0; 1 spreads them evenly, and more puts more of them early.

    Raises:
        ValueError: If a value is outside its set.
    """

    count: int
    power: float = 2.0
    _: KW_ONLY
    extrapolate: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "count", check_count("early", self.count))
        set_field(self, "power", check_positive("power", self.power))

    @override
    def due(self, position: Callable[[], StepPosition], since: Since) -> bool:
        here = position()
        share = here.fraction
        if here.sigma is not None:
            share = math.atan2(1.0, here.sigma) / (math.pi / 2)
        # Half a millionth, so that rounding does not move a pass to the next step.
        done = self.count * math.pow(share, 1 / self.power)
        return since.passes <= done + 5e-7

    @property
    @override
    def _text(self) -> str:
        return f"early:{self.count}" + (
            f",power={number_text(self.power)}" if self.power != 2 else ""
        )


@dataclass(frozen=True)
class Drift(Refresh):
    r"""The steps by which the clean prediction has moved by some part since the last second pass.

    Args:
        threshold: The part: $\lVert s - s_1 \rVert / \lVert s_1 \rVert$ of the sample in which
            it is largest, above 0.

    Raises:
        ValueError: If it is no positive finite number.
    """

    threshold: float
    _: KW_ONLY
    extrapolate: float = 0.8
    needs_clean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "threshold", check_positive("drift", self.threshold))

    @override
    def due(self, position: Callable[[], StepPosition], since: Since) -> bool:
        return since.drift() > self.threshold

    @property
    @override
    def _text(self) -> str:
        return f"drift:{number_text(self.threshold)}"


FORMS = 'a number of steps, "every:3", "early:9", "drift:0.15", also with ",extrapolate=0.5"'
_KINDS: dict[str, tuple[Callable[..., Refresh], frozenset[str]]] = {
    "every": (EveryStep, frozenset({"extrapolate"})),
    "early": (EarlySteps, frozenset({"power", "extrapolate"})),
    "drift": (Drift, frozenset({"extrapolate"})),
}


def as_refresh(value: int | str | Refresh) -> Refresh:
    """A rule for second passes from itself, a number of steps, or its text.

    Raises:
        ValueError: If it is none of these, or a value is outside its set.
    """
    if isinstance(value, Refresh):
        return value
    if not isinstance(value, str):
        return EveryStep(check_count("every", value))
    first, *rest = [part.partition("=") for part in value.lower().replace(" ", "").split(",")]
    kind, _, number = first[0].partition(":")
    names = [name for name, _, _ in rest]
    wrong = ValueError(f"unknown second passes {value!r}; valid are {FORMS}")
    if first[1] or kind not in _KINDS or len(set(names)) < len(names):
        raise wrong
    make, known = _KINDS[kind]
    if not known.issuperset(names):
        raise wrong
    try:
        numbers = [float(text) for text in (number, *[text for _, _, text in rest])]
    except ValueError:
        raise wrong from None
    return make(numbers[0], **dict(zip(names, numbers[1:], strict=True)))
