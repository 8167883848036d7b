"""Where a run is in its schedule, which of its steps are guided, and how strongly."""

from __future__ import annotations

from .first_order import following_noise
from .position import StepPosition
from .refresh import ALL_STEPS_ANEW, Drift, EarlySteps, EveryStep, Refresh, Since, as_refresh
from .scales import CosineScale, LinearScale, ScaleSchedule, ScaleTable, as_scale, scale_at
from .scheduler import Schedule, schedule_position
from .selection import Adaptive, AllOf, AnyOf, EveryNth, NoiseLevels, Steps, StepSelection
from .steps import as_steps, as_steps_without_similarity

__all__ = [
    "ALL_STEPS_ANEW",
    "Adaptive",
    "AllOf",
    "AnyOf",
    "CosineScale",
    "Drift",
    "EarlySteps",
    "EveryNth",
    "EveryStep",
    "LinearScale",
    "NoiseLevels",
    "Refresh",
    "ScaleSchedule",
    "ScaleTable",
    "Schedule",
    "Since",
    "StepPosition",
    "StepSelection",
    "Steps",
    "as_refresh",
    "as_scale",
    "as_steps",
    "as_steps_without_similarity",
    "following_noise",
    "scale_at",
    "schedule_position",
]
