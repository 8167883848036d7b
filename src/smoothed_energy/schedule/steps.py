r"""Which denoising steps are guided: a `StepSelection`, or what stands for one.

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
    "as_steps_without_similarity",
    "schedule_position",
]

from collections.abc import Iterable

from .position import StepPosition
from .scheduler import schedule_position
from .selection import Adaptive, AllOf, AnyOf, EveryNth, NoiseLevels, Steps, StepSelection
from .step_text import FORMS, read_steps


def as_steps_without_similarity(
    value: StepSelection | str | Iterable[StepSelection | str], method: str
) -> StepSelection:
    """As `as_steps`, for a method that makes no perturbed prediction.

    Args:
        value: What `as_steps` takes.
        method: The method's name, for the message.

    Raises:
        ValueError: If the steps depend on a perturbed prediction, too.
    """
    steps = as_steps(value)
    if steps.needs_similarity:
        raise ValueError(
            f"steps={str(steps)!r} depends on a perturbed prediction, and {method} makes none; "
            "expected steps by fractions, noise levels or every n-th"
        )
    return steps


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
        return read_steps(value)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, dict)):
        parts = [as_steps(part) for part in value]
        if not parts:
            raise ValueError(f"an empty list selects no steps; valid are {', '.join(FORMS)}")
        return parts[0] if len(parts) == 1 else AnyOf(*parts)
    raise TypeError(
        "steps are given as a StepSelection, a text or a list of these; "
        f"got {type(value).__name__}; valid texts are {', '.join(FORMS)}"
    )
