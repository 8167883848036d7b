"""Traces: what happens in runs, step by step and layer by layer, measured while they run."""

from __future__ import annotations

from .map_metrics import frobenius_norm, gradient_entropy, laplacian_variance
from .measurements import Measurements
from .metric import (
    TRACE_METRICS,
    AttentionMetric,
    MapMetric,
    StepMetric,
    TraceMetric,
    register_trace_metric,
)
from .trace import DEFAULT_METRICS, Trace
from .trajectory import Divergence, GrowthRate, Trajectory, divergence

__all__ = [
    "DEFAULT_METRICS",
    "TRACE_METRICS",
    "AttentionMetric",
    "Divergence",
    "GrowthRate",
    "MapMetric",
    "Measurements",
    "StepMetric",
    "Trace",
    "TraceMetric",
    "Trajectory",
    "divergence",
    "frobenius_norm",
    "gradient_entropy",
    "laplacian_variance",
    "register_trace_metric",
]
