"""The metrics that traces have of their own, registered by their names."""

from __future__ import annotations

__all__ = ["DEFAULT_METRICS"]

from .attention_metrics import energy, energy_change
from .map_metrics import frobenius_norm, gradient_entropy, laplacian_variance
from .metric import AttentionMetric, MapMetric, register_trace_metric

#: What is measured if nothing else is asked for: what costs little beside a run.
DEFAULT_METRICS = ("frobenius_norm", "laplacian_variance", "gradient_entropy")

register_trace_metric(MapMetric("frobenius_norm", frobenius_norm))
register_trace_metric(MapMetric("laplacian_variance", laplacian_variance))
register_trace_metric(MapMetric("gradient_entropy", gradient_entropy))
register_trace_metric(AttentionMetric("energy", energy))
register_trace_metric(AttentionMetric("energy_change", energy_change))
