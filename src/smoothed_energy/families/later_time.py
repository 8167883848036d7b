"""Times of more noise, as denoisers are told them."""

from __future__ import annotations

__all__ = ["later_time"]

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

#: What the formulas of families ask of a scheduler.
_SCHEDULER = SimpleNamespace(config=SimpleNamespace(num_train_timesteps=1000))


def later_time(timestep: Callable[[Any, Any], Any], time: Any, by: float) -> Any:
    """What a denoiser is told at a time of more noise; None if that is not known.

    Args:
        timestep: From what it is told and a scheduler to the scheduler's timestep.
        time: What it is told: a number, or one for each sample.
        by: How many of 1000 timesteps later; at most the last.
    """
    if time is None:
        return None
    try:
        first, middle, last = (float(timestep(told, _SCHEDULER)) for told in (0.0, 0.5, 1.0))
    except (AttributeError, TypeError):  # It asks more of its scheduler.
        return None
    slope = last - first
    value = torch.as_tensor(time)
    if not slope or abs(first + slope / 2 - middle) > 1e-6 * abs(slope) or value.ndim > 1:
        return None
    precise = value.double()
    now = first + slope * precise
    later = (now + by).clamp(max=max(1000.0, float(now.max())))
    told = precise + (later - now) / slope
    if not value.is_floating_point():
        told = told.round()
    return told.to(value.dtype) if isinstance(time, Tensor) else told.item()
