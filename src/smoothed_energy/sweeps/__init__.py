"""Sweeps: many configurations, prompts and seeds drawn on one machine or a cluster, and resumed."""

from __future__ import annotations

from .configuration import Configuration, PictureSettings
from .file import Sweep, SweepError, read_sweep
from .measurement import check_measurement, measure
from .plan import Plan, Row, plan
from .results import Results
from .run import SweepStopped, count_done, output_folder, run
from .sampler import Sampler, SamplerSource

__all__ = [
    "Configuration",
    "PictureSettings",
    "Plan",
    "Results",
    "Row",
    "Sampler",
    "SamplerSource",
    "Sweep",
    "SweepError",
    "SweepStopped",
    "check_measurement",
    "count_done",
    "measure",
    "output_folder",
    "plan",
    "read_sweep",
    "run",
]
