r"""Which denoising steps are guided.

A step is known by its position: the `index`-th of `count` distinct noise levels of the scheduler's
own list of timesteps, and by its noise level

    sigma = sqrt((1 - abar) / abar) = std(noise) / std(signal),

the sigma of k-diffusion and EDM. A `StepSelection` says for a position whether it is active.

| value | active steps |
|---|---|
| `"all"` | all |
| `"begin"`, `"mid"`, `"end"` | the first, second, last third of the schedule |
| `"begin+end"`, `["begin", "end"]` | a union |
| `"0.2:0.7"`, `Steps(0.2, 0.7)` | a part of the schedule, by fractions |
| `"sigma:0.5:5"`, `NoiseLevels(0.5, 5)` | an interval of noise levels |
| `"every:2"`, `EveryNth(2)` | every second step |
| `"begin&every:2"`, `Steps(0, 1/3) & EveryNth(2)` | an intersection |
| `"adaptive:0.999"`, `Adaptive(0.999)` | until clean and perturbed predictions agree so far |

Positions refer to the whole of the list, so that noise levels keep theirs: an image-to-image run
of strength 0.6 starts at fraction 0.4, and one with `denoising_end=0.8` ends at fraction 0.8.

Sources: the interval by fractions is the published study's ("guidance in the first third is
enough"); the one by noise levels is that of Kynkaanniemi et al. (arXiv:2404.07724); the adaptive
one that of Castillo et al. (arXiv:2312.12487), there for classifier-free guidance.
"""

from __future__ import annotations

__all__ = [
    "Adaptive",
    "AllOf",
    "AnyOf",
    "EveryNth",
    "NoiseLevels",
    "StepPosition",
    "StepSelection",
    "Steps",
    "as_steps",
    "schedule_position",
]

import abc
import math
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..settings.checks import check_count


@dataclass(frozen=True)
class StepPosition:
    """Where a denoising step is in its schedule.

    Args:
        index: Position among the distinct noise levels of the schedule, from 0.
        count: Number of distinct noise levels in the schedule.
        sigma: Noise level, the standard deviation of the noise over that of the signal, in
            [0, inf]; None if unknown.
        timestep: The timestep given to the denoiser; None if unknown.
        similarity: How similar the perturbed prediction was to the clean one in this run so far:
            of all guided steps the highest cosine of the two, in a batch that of the least similar
            sample. None before the first.

    Raises:
        ValueError: Unless 0 <= index < count are integers, and sigma is not negative.
    """

    index: int
    count: int
    sigma: float | None = None
    timestep: float | None = None
    similarity: float | None = None

    def __post_init__(self) -> None:
        for name in ("index", "count"):
            object.__setattr__(self, name, check_count(name, getattr(self, name), 0))
        if self.index >= self.count:
            raise ValueError(
                f"a step's index must lie in [0, count); got {self.index} of {self.count}"
            )
        if self.sigma is not None and not self.sigma >= 0:
            raise ValueError(f"a noise level must lie in [0, inf]; got {self.sigma}")

    @property
    def fraction(self) -> float:
        """The part of the schedule that lies before this step, in [0, 1)."""
        return self.index / self.count


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
        """Whether `StepPosition.similarity` matters."""
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

    Adjoining intervals share out the steps of every schedule: each step lies in exactly one.
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
        object.__setattr__(self, "start", _number("start", self.start))
        object.__setattr__(self, "stop", _number("stop", self.stop))
        if not (0 <= self.start <= 1 and 0 <= self.stop <= 1):
            raise ValueError(
                "steps are given as fractions of the schedule, in [0, 1]; "
                f"got start={self.start!r}, stop={self.stop!r}"
            )
        if self.start >= self.stop:
            raise ValueError(
                f"steps must start before they stop; got start={self.start!r}, stop={self.stop!r}"
            )

    def active(self, position: StepPosition) -> bool:
        """See `StepSelection.active`."""
        first, end = _boundary(self.start, position.count), _boundary(self.stop, position.count)
        return first <= position.index < end

    def __str__(self) -> str:
        return _NAME_OF.get((self.start, self.stop)) or f"{_text(self.start)}:{_text(self.stop)}"


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
        object.__setattr__(self, "low", _number("low", self.low))
        object.__setattr__(self, "high", _number("high", self.high))
        if not (self.low >= 0 and self.high >= 0):
            raise ValueError(
                f"noise levels must lie in [0, inf]; got low={self.low!r}, high={self.high!r}"
            )
        if self.low >= self.high:
            raise ValueError(
                "a noise interval goes from the lower to the higher level; "
                f"got low={self.low!r}, high={self.high!r}"
            )

    def active(self, position: StepPosition) -> bool:
        """See `StepSelection.active`."""
        if position.sigma is None:
            raise ValueError(
                f"{self} selects steps by noise level, but this scheduler tells none (it has "
                'neither sigmas nor alphas_cumprod); select by fractions, such as "0:0.5"'
            )
        return self.low < position.sigma <= self.high

    def __str__(self) -> str:
        return f"sigma:{_text(self.low)}:{_text(self.high)}"


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
        for name in ("n", "offset"):
            value = getattr(self, name)
            try:
                if isinstance(value, bool):
                    raise TypeError
                object.__setattr__(self, name, operator.index(value))
            except TypeError:
                raise TypeError(f"{name} must be an integer; got {value!r}") from None
        if self.n < 1:
            raise ValueError(f"every n-th step needs n of at least 1; got {self.n}")
        if not 0 <= self.offset < self.n:
            raise ValueError(f"offset must lie in [0, n) = [0, {self.n}); got {self.offset}")

    def active(self, position: StepPosition) -> bool:
        """See `StepSelection.active`."""
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
        object.__setattr__(self, "threshold", _number("threshold", self.threshold))
        if not 0 < self.threshold <= 1:
            raise ValueError(f"a threshold is a cosine, in (0, 1]; got {self.threshold!r}")

    def active(self, position: StepPosition) -> bool:
        """See `StepSelection.active`."""
        return position.similarity is None or position.similarity < self.threshold

    @property
    def needs_similarity(self) -> bool:
        """See `StepSelection.needs_similarity`."""
        return True

    def __str__(self) -> str:
        return f"adaptive:{_text(self.threshold)}"


@dataclass(frozen=True, init=False)
class _Combination(StepSelection):
    """Several selections taken together; those of the same kind inside are unfolded."""

    selections: tuple[StepSelection, ...]

    def __init__(self, *selections: StepSelection) -> None:
        flat: list[StepSelection] = []
        for part in selections:
            if not isinstance(part, StepSelection):
                raise TypeError(f"{type(self).__name__} takes step selections; got {part!r}")
            flat.extend(part.selections if isinstance(part, type(self)) else [part])
        if len(flat) < 2:
            raise ValueError(f"{type(self).__name__} needs at least two step selections")
        object.__setattr__(self, "selections", tuple(flat))

    @property
    def needs_similarity(self) -> bool:
        """See `StepSelection.needs_similarity`."""
        return any(part.needs_similarity for part in self.selections)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.selections))})"


class AnyOf(_Combination):
    """The union of step selections: active where any is.

    Raises:
        ValueError: If fewer than two are given.
        TypeError: If something else than a `StepSelection` is given.
    """

    def active(self, position: StepPosition) -> bool:
        """See `StepSelection.active`."""
        return any(part.active(position) for part in self.selections)

    def __str__(self) -> str:
        return "+".join(map(str, self.selections))


class AllOf(_Combination):
    """The intersection of step selections: active where all are.

    Raises:
        ValueError: If fewer than two are given.
        TypeError: If something else than a `StepSelection` is given.
    """

    def active(self, position: StepPosition) -> bool:
        """See `StepSelection.active`."""
        return all(part.active(position) for part in self.selections)

    def __str__(self) -> str:
        return "&".join(
            f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.selections
        )


_FORMS = (
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


def as_steps(value: StepSelection | str | Iterable[StepSelection | str]) -> StepSelection:
    """A step selection from itself, a text, or a list (a union) of either.

    Texts: a name, `start:stop` or `start-stop` in fractions of the schedule (`1/3` is a number,
    too), `sigma:low:high` or `sigma:low-high`, `every:n` or `every:n,offset=m`, `adaptive:cosine`;
    `+` joins a union, `&` an intersection (which binds closer), and parentheses group.

    Raises:
        ValueError: If the text has no valid form (the message lists the forms), a value is outside
            its set, or the list is empty.
        TypeError: If the value is of another type.
    """
    if isinstance(value, StepSelection):
        return value
    if isinstance(value, str):
        return _Parser(value).selection()
    if isinstance(value, Iterable) and not isinstance(value, (bytes, dict)):
        parts = [as_steps(part) for part in value]
        if not parts:
            raise ValueError(f"an empty list selects no steps; valid are {', '.join(_FORMS)}")
        return parts[0] if len(parts) == 1 else AnyOf(*parts)
    raise TypeError(
        "steps are given as a StepSelection, a text or a list of these; "
        f"got {type(value).__name__}; valid texts are {', '.join(_FORMS)}"
    )


def schedule_position(scheduler: Any, timestep: int | float | Tensor) -> StepPosition:
    """The position of a timestep in the schedule of a `diffusers` scheduler.

    The schedule is the scheduler's own `timesteps` after `set_timesteps`. Some repeat timesteps
    (Heun, PNDM, ...): each distinct one is one noise level, in order of appearance. Those that
    evaluate the model *between* two noise levels (KDPM2, DPMSolverSDE) count these levels, too.

    The noise level is read from `scheduler.sigmas`; between levels, and for schedulers without
    sigmas (DDIM, DDPM, PNDM, ...), from `alphas_cumprod`. Flow-matching schedulers blend
    `(1 - t) signal + t noise`: their level is `t / (1 - t)`.

    Args:
        scheduler: Any object with `timesteps`.
        timestep: The timestep given to the denoiser: a number, or a tensor of equal ones. Rounded
            ones (in half precision) match the nearest in the schedule.

    Returns:
        The position; its `sigma` is None if the scheduler tells no noise levels.

    Raises:
        ValueError: If the scheduler has no timesteps, the tensor holds different ones, or the
            timestep is not in the schedule.
    """
    schedule = getattr(scheduler, "timesteps", None)
    if schedule is None or len(schedule) == 0:
        raise ValueError(
            f"{type(scheduler).__name__} has no timesteps yet; call set_timesteps on it first"
        )
    times = [float(time) for time in _values(schedule)]
    wanted = _one_value(timestep)
    levels = _distinct(times)
    nearest = min(levels, key=lambda level: abs(level - wanted))
    gap = min((abs(level - nearest) for level in levels if level != nearest), default=0.0)
    # Half the gap, or what rounding to bfloat16 (8 bits) can do to the nearest.
    if not abs(wanted - nearest) <= max(gap / 2, abs(nearest) * 2**-8):
        raise ValueError(
            f"timestep {wanted:g} is not in the schedule of {type(scheduler).__name__}, whose "
            f"{len(levels)} timesteps go from {levels[0]:g} to {levels[-1]:g}"
        )
    return StepPosition(
        index=levels.index(nearest),
        count=len(levels),
        sigma=_noise_level(scheduler, times, times.index(nearest)),
        timestep=nearest,
    )


def _distinct(times: list[float]) -> list[float]:
    """The times in order of appearance, each once; computed ones may repeat up to rounding."""
    tolerance = 1e-6 * max(abs(time) for time in times)
    levels: list[float] = []
    for time in dict.fromkeys(times):
        if not levels or abs(time - levels[-1]) > tolerance:
            levels.append(time)
    return levels


def _noise_level(scheduler: Any, times: list[float], index: int) -> float | None:
    """The noise level at `times[index]`, None if the scheduler does not tell it."""
    alphas = getattr(scheduler, "alphas_cumprod", None)
    # These two attributes mark the schedulers that put a model call between two of their sigmas, at
    # odd indices; there `timesteps` is right and `sigmas` is not.
    between = index % 2 == 1 and (
        hasattr(scheduler, "sigmas_interpol") or hasattr(scheduler, "mid_point_sigma")
    )
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and not between and 0 <= len(sigmas) - len(times) <= 2:
        levels = [float(sigma) for sigma in _values(sigmas)]
        sigma = levels[index]
        if _is_flow(scheduler, times, levels):
            return math.inf if sigma >= 1 else max(sigma, 0.0) / (1 - sigma)
        return sigma if sigma >= 0 else None
    return None if alphas is None else _training_noise_level(alphas, times[index])


def _is_flow(scheduler: Any, times: list[float], sigmas: list[float]) -> bool:
    """Whether sigma is the time of a flow: the timesteps are then the sigmas, scaled."""
    config = getattr(scheduler, "config", {})
    if config.get("use_flow_sigmas", False):
        return True
    scale = config.get("num_train_timesteps", 1)
    # Up to two units of rounding: some schedulers cast their timesteps to integers.
    return all(
        abs(time - scale * sigma) <= 2 and sigma <= 1
        for time, sigma in zip(times, sigmas, strict=False)
    )


def _training_noise_level(alphas_cumprod: Any, time: float) -> float | None:
    """`sqrt((1 - abar) / abar)` at a training timestep, log-linear between two."""
    last = len(alphas_cumprod) - 1
    time = min(max(time, 0.0), float(last))
    below = math.floor(time)
    first, second = (_sigma(float(alphas_cumprod[i])) for i in (below, min(below + 1, last)))
    weight = time - below
    if weight == 0 or first == second or not (first > 0 and second < math.inf):
        return first
    return math.exp((1 - weight) * math.log(first) + weight * math.log(second))


def _sigma(alpha_cumprod: float) -> float:
    return math.inf if alpha_cumprod <= 0 else math.sqrt(max(1 - alpha_cumprod, 0) / alpha_cumprod)


def _values(sequence: Any) -> list[Any]:
    """The numbers in a tensor, array or list (one transfer from the accelerator, not many)."""
    return list(sequence.tolist() if hasattr(sequence, "tolist") else sequence)


def _one_value(timestep: int | float | Tensor) -> float:
    if not isinstance(timestep, Tensor):
        return float(timestep)
    values = timestep.detach().to("cpu", torch.float64).flatten().tolist()
    if not values:
        raise ValueError("the timestep is an empty tensor")
    if min(values) != max(values):
        raise ValueError(
            f"the batch holds different timesteps, {min(values):g} to {max(values):g}; "
            "step selections need one for all rows"
        )
    return float(values[0])


def _boundary(fraction: float, count: int) -> int:
    """The first index that is not before a fraction of the schedule."""
    return math.ceil(fraction * count - 1e-6)


def _number(name: str, value: float) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError(f"{name} must be a number; got {value!r}")
    try:
        return float(value) + 0.0  # -0.0 becomes 0.0
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number; got {value!r}") from None


def _text(value: float) -> str:
    """The shortest text that reads back as the same number, without a "+" in it."""
    return repr(int(value) if value.is_integer() else value).replace("e+", "e")


class _Parser:
    """A recursive descent through the text of a selection."""

    _NUMBER = r"(?:inf|nan|-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?(?:/\d+)?)"
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
            return _NAMED[match["name"]]
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
        return ValueError(f"unknown steps {self.original!r}; valid are {', '.join(_FORMS)}")


def _fraction(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    if denominator and int(denominator) == 0:
        return math.nan
    return float(numerator) / int(denominator or 1)


_NAMED = {
    "all": Steps(0, 1),
    "begin": Steps(0, 1 / 3),
    "mid": Steps(1 / 3, 2 / 3),
    "end": Steps(2 / 3, 1),
}
_NAME_OF = {(steps.start, steps.stop): name for name, steps in _NAMED.items()}
