"""Table 2 and Figure 5 of [Re]: what smoothers cost, side by side, and beside a plain copy."""

from __future__ import annotations

__all__ = ["RE_TABLE_2_EXPERIMENT"]

import functools
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..smoothing import as_smoothing
from .experiment import Experiment
from .guidances import blur_label
from .study import Study

if TYPE_CHECKING:
    from ..report.page import Section

_SOURCE = "[Re], Table 2 and Figure 5"

#: The queries of a middle layer of SDXL at 1024 x 1024, with CFG: batch, heads, tokens, width.
_SHAPE, _GRID = (2, 20, 1024, 64), (32, 32)

_BLURS = (
    "gaussian:10,kernel=3",
    "gaussian:10,kernel=31",
    "gaussian:10",
    "gaussian:inf",
    "ema:0.95",
    "box:5,alpha=0.9",
    "box:31,alpha=0.9",
)


def _run(study: Study) -> Section:
    from ..report.page import Column, Number, Section, Table  # noqa: PLC0415 - for a page alone

    query = torch.randn(_SHAPE, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[], Tensor]] = {"a plain copy": query.clone}
    for text in _BLURS:
        operator = as_smoothing(text)
        ways[blur_label(text)] = functools.partial(operator.apply, query, _GRID)
    seconds = _take_turns(ways, rounds=max(4, min(study.samples, 32)))
    copies = seconds["a plain copy"]
    rows: list[list[str | float | Number | None]] = []
    for name, taken in seconds.items():
        ratios = sorted(mine / other for mine, other in zip(taken, copies, strict=True))
        middle = statistics.median(ratios)
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        rows.append([name, 1e3 * statistics.median(taken), Number(middle, low, high)])
    study.keep("re-table-2", {name: statistics.median(taken) for name, taken in seconds.items()})
    table = Table(
        [
            Column("smoother"),
            Column("time", kind="median", unit="ms", better="lower", decimals=2),
            Column("of a copy", kind="ratio in the same round, middle 80 %", decimals=1),
        ],
        rows,
        "Smoothing the queries of one middle layer of SDXL.",
        f"Queries {_SHAPE}, float32, on {torch.get_num_threads()} thread(s) of the processor; all "
        f"take turns, {len(copies)} rounds.",
    )
    return Section(
        "What smoothers cost",
        "Blurs over the grid are two small matrix products, whatever the size of their kernel; a "
        "moving average is computed in chunks. So the cost that the study reports for wide kernels "
        "is one of the convolution that it used, not of the blur.",
        [table],
        anchor="re-table-2",
        source=_SOURCE,
    )


def _take_turns(ways: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every way in every round; a first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            taken = time.perf_counter() - started
            if number:
                seconds[name].append(taken)
    return seconds


RE_TABLE_2_EXPERIMENT = Experiment(
    "re-table-2", _SOURCE, "Are a moving average and a box blur cheaper than a Gaussian?", _run
)
