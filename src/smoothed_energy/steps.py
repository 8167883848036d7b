"""Which steps are guided: an older path of `smoothed_energy.schedule`."""

from __future__ import annotations

from .schedule import (
    Adaptive,
    EveryNth,
    NoiseLevels,
    StepPosition,
    Steps,
    StepSelection,
    as_steps,
    schedule_position,
)

__all__ = [
    "Adaptive",
    "EveryNth",
    "NoiseLevels",
    "StepPosition",
    "StepSelection",
    "Steps",
    "as_steps",
    "schedule_position",
]
