"""Metrics by name: numbers that compare two sets of features."""

from __future__ import annotations

__all__ = ["METRICS", "Better", "Metric", "MomentsMetric", "SubsetValue", "register_metric"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from torch import Tensor

from ..settings.registration import register_metric_as
from .statistics import Moments

#: Which of two values is that of the better samples.
Better: TypeAlias = Literal["lower", "higher"]

#: A metric's number for some of the samples: a function of their indices, `(m,)` int64, in which an
#: index may come more than once.
SubsetValue: TypeAlias = Callable[[Tensor], float]


@dataclass(frozen=True)
class Metric:
    """A number that compares samples to real images, by the features of both.

    Args:
        name: Its name. It says nothing of the network that made the features or of the size that
            images had for it: values compare only where those are the same.
        compare: The number for features `(N, D)` of samples and `(M, D)` of real images.
        better: Whether better samples have a lower or a higher number.
        least: How many samples, and how many real images, it needs.
        prepare: For intervals, which need the number for hundreds of subsets of the same samples:
            from the features of all samples and of the real images, a function that is faster than
            `compare` would be. None means that `compare` is called for each subset.
        uses_real: Whether the number depends on the real images at all.
        bounds: The least and the largest number there can be; an interval does not leave them.
    """

    name: str
    compare: Callable[[Tensor, Tensor], float]
    better: Better = "lower"
    least: int = 2
    prepare: Callable[[Tensor, Tensor], SubsetValue] | None = None
    uses_real: bool = True
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def subsets(self, samples: Tensor, real: Tensor) -> SubsetValue:
        """The number for subsets of the samples, as a function of their indices."""
        if self.prepare is not None:
            return self.prepare(samples, real)
        return lambda indices: self.compare(samples[indices], real)

    def __call__(self, samples: Tensor, real: Tensor) -> float:
        """The number for features `(N, D)` of samples and `(M, D)` of real images.

        Raises:
            ValueError: If there are too few of either, or features of two kinds.
        """
        for features in (samples, real):
            if features.ndim != 2 or len(features) < self.least:
                raise ValueError(
                    f"{self.name}: features have shape {tuple(features.shape)}; expected "
                    f"(N >= {self.least}, D)"
                )
        if samples.shape[1] != real.shape[1]:
            raise ValueError(
                f"{self.name}: {samples.shape[1]} features of samples can't be compared with "
                f"{real.shape[1]} of real images"
            )
        return self.compare(samples, real)


@dataclass(frozen=True)
class MomentsMetric(Metric):
    """A metric that needs no more of the real images than mean and covariance of their features.

    Args:
        to_moments: The number for features `(N, D)` of samples and the moments of real images.
        between_moments: The number for the moments of both.
        prepare_moments: As `prepare`, for moments of real images.
    """

    to_moments: Callable[[Tensor, Moments], float] = field(kw_only=True)
    between_moments: Callable[[Moments, Moments], float] = field(kw_only=True)
    prepare_moments: Callable[[Tensor, Moments], SubsetValue] = field(kw_only=True)


_metrics: dict[str, Metric] = {}

#: Names to metrics: a view of those that are registered.
METRICS: Mapping[str, Metric] = MappingProxyType(_metrics)


def register_metric(metric: Metric) -> Metric:
    """Make a metric known by its name.

    Args:
        metric: The metric. If its function was defined again, as when a notebook's cell runs twice,
            it takes the place of its earlier self.

    Returns:
        The metric.

    Raises:
        TypeError: If it is not a `Metric`.
        ValueError: If another metric has the name.
    """
    if not isinstance(metric, Metric):
        raise TypeError(f"{metric!r} is not a Metric; expected an instance of it")
    register_metric_as(_metrics, metric.name, metric, lambda one: one.compare)
    return metric
