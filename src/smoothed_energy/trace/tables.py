"""The tables of a trace, made from what its recorder kept."""

from __future__ import annotations

__all__ = ["layer_table", "step_table"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .packages import pandas
from .recorder import StepRecord

if TYPE_CHECKING:
    import pandas as pd

_STEP = ("run", "step", "sample")
_FACTS = ("index", "count", "sigma", "timestep", "cfg_scale", "evaluations", "seconds")
_LAYER = (*_STEP, "layer", "code", "branch")


def step_table(records: Sequence[StepRecord]) -> pd.DataFrame:
    """A row for each run, step and sample; see `Measurements.steps`."""
    parts = []
    for record in records:
        count = _count(record.columns)
        keys = _keys(record, count)
        facts = {name: np.full(count, value) for name, value in record.facts.items()}
        parts.append(keys | facts | record.columns)
    return _table([*_STEP, *_FACTS], parts)


def layer_table(records: Sequence[StepRecord]) -> pd.DataFrame:
    """A row for each run, step, sample, layer and branch; see `Measurements.layers`."""
    parts = []
    for record in records:
        for one in record.layers:
            count = _count(record.columns)
            text = {"layer": one.layer, "code": one.code, "branch": one.branch}
            names = {name: [value] * count for name, value in text.items()}
            parts.append(_keys(record, count) | names | one.columns)
    return _table(list(_LAYER), parts)


def _count(columns: dict[str, Any]) -> int:
    return len(next(iter(columns.values())))


def _keys(record: StepRecord, count: int) -> dict[str, Any]:
    keys = {"run": record.run, "step": record.step}
    return {name: np.full(count, value) for name, value in keys.items()} | {
        "sample": np.arange(count)
    }


def _table(first: list[str], parts: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A table of parts with columns of their own; what a part does not have is NaN."""
    names = dict.fromkeys([*first, *[name for part in parts for name in part]])
    columns: dict[str, Any] = {}
    for name in names:
        values = []
        for part in parts:
            missing = np.full(len(part["run"]), np.nan)
            values.append(np.asarray(part.get(name, missing)))
        columns[name] = np.concatenate(values) if values else []
    table: pd.DataFrame = pandas().DataFrame(columns)
    return table
