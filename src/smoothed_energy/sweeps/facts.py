"""What is noted of a picture's run: facts that are the same whenever it is drawn."""

from __future__ import annotations

__all__ = ["observed", "run_facts"]

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..engine.summary import GuidanceWarning
from ..integrations.attachment import Attachment
from ..trace import Trace

Facts = list[dict[str, Any]]

#: Facts by the columns of a trace's table of pictures.
_TRACED = {
    "effective_cfg_scale": "effective_cfg_scale",
    "relative_correction": "correction_relative_norm",
}
# More would be the order in which a processor adds.
_DIGITS = 6


@contextmanager
def observed(pipe: Any, *, trace: bool) -> Iterator[Callable[[int], Facts]]:
    """A block in which one call of a pipeline is observed.

    Args:
        pipe: The pipeline.
        trace: Whether to measure its effective CFG scale and the size of the correction.

    Returns:
        A function for after the block: the facts of each of so many pictures.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GuidanceWarning)
        if trace:
            with Trace(pipe, layers=(), metrics=()) as recorded:
                yield lambda count: _with_warnings(_traced(recorded, count), caught)
        else:
            yield lambda count: _with_warnings([{} for _ in range(count)], caught)
    for warning in caught:
        if not issubclass(warning.category, GuidanceWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def run_facts(attachments: Sequence[Attachment]) -> dict[str, Any]:
    """What the attached guidances did in the last call."""
    facts: dict[str, Any] = {}
    for number, attachment in enumerate(attachments, start=1):
        name = "guided_steps" if number == 1 else f"guided_steps_{number}"
        done = attachment.last_run
        if not attachment.guidance.limits_cfg:
            facts[name] = 0 if done is None else done.guided_calls + done.reused_calls
    return facts or {"guided_steps": 0}


def _traced(trace: Trace, count: int) -> Facts:
    table = trace.per_picture()
    found = []
    for sample in range(count):
        row = table.iloc[sample]
        found.append({name: _number(row.get(column)) for name, column in _TRACED.items()})
    return found


def _with_warnings(facts: Facts, caught: Sequence[warnings.WarningMessage]) -> Facts:
    texts = [
        " ".join(str(warning.message).split())
        for warning in caught
        if issubclass(warning.category, GuidanceWarning)
    ]
    return [{**one, "warnings": sorted({*texts})} if texts else one for one in facts]


def _number(value: float | None) -> float | None:
    if value is None or math.isnan(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
