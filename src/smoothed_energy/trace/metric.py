"""Metrics of traces by name: what is measured of maps, of attention, and of whole steps."""

from __future__ import annotations

__all__ = [
    "TRACE_METRICS",
    "AttentionMetric",
    "MapMetric",
    "StepMetric",
    "TraceMetric",
    "as_trace_metrics",
    "register_trace_metric",
]

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias, get_args

from torch import Tensor

from ..engine.observer import SeenStep
from ..guidance.attention_perturbation import AttentionCall
from ..settings.registration import register_metric_as


@dataclass(frozen=True)
class MapMetric:
    """A number of a stack of maps: of latents, and of the hidden states of a layer.

    Args:
        name: Its name, and that of its column.
        measure: From maps `(B, M, H, W)`, float32 or float64, to one number for each sample,
            `(B,)`. The maps are the channels, of every frame of a video. It runs where the maps
            are, and nothing else is kept of them.
    """

    name: str
    measure: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AttentionMetric:
    """Numbers of the attention of a layer, as it enters the softmax in the clean pass.

    Args:
        name: Its name.
        measure: From the attention that the image's tokens ask for, and what enters the softmax in
            its place in the perturbed pass of each guidance (by the guidance's name in the trace),
            to columns `(rows,)`. Where frames or places are folded into the batch there are several
            rows for each sample, whose mean is kept.
    """

    name: str
    measure: Callable[[AttentionCall, Mapping[str, AttentionCall]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class StepMetric:
    """Numbers of what a whole step predicted.

    Args:
        name: Its name.
        measure: From the step to columns `(B,)`, a number for each sample. A column may be left out
            of steps that don't have it.
    """

    name: str
    measure: Callable[[SeenStep], Mapping[str, Tensor]]


TraceMetric: TypeAlias = MapMetric | AttentionMetric | StepMetric

_metrics: dict[str, TraceMetric] = {}

#: Names to metrics: a view of those that are registered.
TRACE_METRICS: Mapping[str, TraceMetric] = MappingProxyType(_metrics)


def register_trace_metric(metric: TraceMetric) -> TraceMetric:
    """Make a metric known by its name.

    Args:
        metric: The metric. If its function was defined again, as when a notebook's cell runs twice,
            it takes the place of its earlier self.

    Returns:
        The metric.

    Raises:
        TypeError: If it is none.
        ValueError: If another metric has the name.
    """
    _check(metric)
    register_metric_as(_metrics, metric.name, metric, lambda one: one.measure)
    return metric


def as_trace_metrics(metrics: Iterable[str | TraceMetric]) -> tuple[TraceMetric, ...]:
    """Metrics, each once, from their names or themselves.

    Raises:
        TypeError: If one is neither.
        ValueError: If a name is not known.
    """
    if isinstance(metrics, str):
        metrics = [name.strip() for name in metrics.split(",")]
    found: dict[str, TraceMetric] = {}
    for metric in metrics:
        if isinstance(metric, str):
            if metric not in _metrics:
                raise ValueError(
                    f"metrics: {metric!r} is not known; expected of {', '.join(_metrics)}"
                )
            found[metric] = _metrics[metric]
        else:
            _check(metric)
            found[metric.name] = metric
    return tuple(found.values())


def _check(metric: object) -> None:
    if not isinstance(metric, get_args(TraceMetric)):
        kinds = ", ".join([kind.__name__ for kind in get_args(TraceMetric)])
        raise TypeError(f"{metric!r} is no metric of a trace; expected a name or one of {kinds}")
