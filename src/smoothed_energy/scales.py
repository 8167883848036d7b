"""Scales that change over the steps: an older path of `smoothed_energy.schedule`."""

from __future__ import annotations

from .schedule import CosineScale, LinearScale, ScaleSchedule, ScaleTable, as_scale, scale_at

__all__ = ["CosineScale", "LinearScale", "ScaleSchedule", "ScaleTable", "as_scale", "scale_at"]
