"""Where a run is in its schedule, which of its steps are guided, and how strongly."""

from __future__ import annotations

from .scales import CosineScale, LinearScale, ScaleSchedule, ScaleTable, as_scale, scale_at
from .steps import (
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
    "CosineScale",
    "EveryNth",
    "LinearScale",
    "NoiseLevels",
    "ScaleSchedule",
    "ScaleTable",
    "StepPosition",
    "StepSelection",
    "Steps",
    "as_scale",
    "as_steps",
    "scale_at",
    "schedule_position",
]
