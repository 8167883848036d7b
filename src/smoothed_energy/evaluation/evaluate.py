"""Metrics of samples against real images, each with its interval over seeds."""

from __future__ import annotations

__all__ = ["compare", "difference", "evaluate"]

from collections.abc import Callable, Sequence

from ..settings.checks import check_choice
from .bootstrap import Interval, Resampling, interval, paired_interval
from .extractor import Extractor
from .feature_set import FeatureSet, Measurable, feature_set
from .metric import METRICS, Metric, MomentsMetric, SubsetValue
from .statistics import FeatureStatistics
from .store import FeatureStore
from .value import Value

#: Told that one more half of the samples was measured.
Step = Callable[[int], None]


def evaluate(
    samples: Measurable,
    against: Measurable,
    metrics: Sequence[str] = ("frechet", "kernel"),
    *,
    extractor: Extractor | None = None,
    store: FeatureStore | None = None,
    resamples: Resampling | int | None = None,
) -> list[Value]:
    """The numbers of samples against real images.

    Args:
        samples: A folder, pictures of one size, features ``(N, D)``, a `FeatureSet` or statistics.
        against: The real images, in any of these forms.
        metrics: Names of `METRICS`.
        extractor: What makes features of pictures; see `open_extractor`.
        store: Where features are kept.
        resamples: How samples are resampled for intervals, or how often; None makes no intervals.

    Returns:
        A value for each metric, in their order.

    Raises:
        ValueError: If a metric is not known, pictures can't be read or differ in size, there are
            too few, the two are of different extractors, or statistics are given where features are
            needed.
    """
    check_metrics(metrics)
    first = feature_set(samples, extractor, store=store)
    second = feature_set(against, extractor, store=store)
    return compare(first, second, metrics, resamples=resamples)


def compare(
    samples: FeatureSet | FeatureStatistics,
    real: FeatureSet | FeatureStatistics,
    metrics: Sequence[str],
    *,
    resamples: Resampling | int | None = None,
    progress: Step | None = None,
) -> list[Value]:
    """The numbers of features against those of real images; see `evaluate`.

    Args:
        samples: Features or statistics of samples.
        real: Features or statistics of real images.
        metrics: Names of `METRICS`.
        resamples: How samples are resampled for intervals, or how often; None makes no intervals.
        progress: Called with 1 for each half that was measured.
    """
    check_metrics(metrics)
    _check_same_extractor(samples, real)
    resampling = Resampling(resamples) if isinstance(resamples, int) else resamples
    values = []
    for name in metrics:
        metric = METRICS[name]
        number = _number(metric, samples, real)
        least, most = metric.bounds
        ends: Interval | None = None
        if resampling is not None:
            subsets = _subsets(metric, samples, real)
            ends = interval(subsets, _size(samples), resampling, progress=progress)
        values.append(
            Value(
                metric=name,
                extractor=samples.extractor,
                value=number,
                low=None if ends is None else max(number + ends.low - ends.value, least),
                high=None if ends is None else min(number + ends.high - ends.value, most),
                count=_size(samples),
                against=real.source if metric.uses_real else "",
                better=metric.better,
                weights=samples.digest,
                intervals="" if resampling is None else resampling.text,
            )
        )
    return values


def difference(
    first: FeatureSet,
    second: FeatureSet,
    real: FeatureSet | FeatureStatistics,
    metric: str,
    resampling: Resampling | None = None,
) -> Interval:
    """A row's number minus another's of the same seeds, with an interval of the difference.

    Args:
        first: Features of the row, ``(N, D)``.
        second: Features of the other row, in which each vector is of the same seed and prompt.
        real: Features or statistics of the real images.
        metric: A name of `METRICS`.
        resampling: How seeds are resampled.

    Raises:
        ValueError: If the rows have different counts or extractors.
    """
    check_metrics([metric])
    for row in (first, second):
        _check_same_extractor(row, real)
    if len(first) != len(second):
        raise ValueError(
            f"rows of {len(first)} and {len(second)} samples; a paired difference needs the same "
            "seeds in both"
        )
    rows = [_subsets(METRICS[metric], row, real) for row in (first, second)]
    return paired_interval(rows[0], rows[1], len(first), resampling)


def check_metrics(metrics: Sequence[str]) -> None:
    """Refuse names that are no metrics, and none at all.

    Raises:
        ValueError: If there is one, or there are none.
    """
    if isinstance(metrics, str) or not metrics:
        raise ValueError(f"metrics={metrics!r}: expected a list of {', '.join(METRICS)}")
    for name in metrics:
        check_choice("metric", name, tuple(METRICS))


def _size(samples: FeatureSet | FeatureStatistics) -> int:
    return samples.count if isinstance(samples, FeatureStatistics) else len(samples)


def _check_same_extractor(
    samples: FeatureSet | FeatureStatistics, real: FeatureSet | FeatureStatistics
) -> None:
    for what, first, second in (
        ("extractor", samples.extractor, real.extractor),
        ("weights", samples.digest[:12], real.digest[:12]),
    ):
        if first != second:
            raise ValueError(
                f"samples have the {what} {first!r} and real images {second!r}; features of "
                "different extractors can't be compared"
            )


def _number(
    metric: Metric, samples: FeatureSet | FeatureStatistics, real: FeatureSet | FeatureStatistics
) -> float:
    if isinstance(samples, FeatureSet) and isinstance(real, FeatureSet):
        return metric(samples.features, real.features)
    if not metric.uses_real and isinstance(samples, FeatureSet):
        return metric(samples.features, samples.features)
    if not isinstance(metric, MomentsMetric):
        raise _needs_features(metric, samples, real)
    moments = (real.statistics() if isinstance(real, FeatureSet) else real).moments()
    if isinstance(samples, FeatureSet):
        return metric.to_moments(samples.features, moments)
    return metric.between_moments(samples.moments(), moments)


def _subsets(
    metric: Metric, samples: FeatureSet | FeatureStatistics, real: FeatureSet | FeatureStatistics
) -> SubsetValue:
    if _size(samples) // 2 < metric.least:
        raise ValueError(
            f"{_size(samples)} samples; an interval of {metric.name} needs at least "
            f"{2 * metric.least}"
        )
    if isinstance(samples, FeatureSet):
        if isinstance(real, FeatureSet):
            return metric.subsets(samples.features, real.features)
        if not metric.uses_real:
            return metric.subsets(samples.features, samples.features)
        if isinstance(metric, MomentsMetric):
            return metric.prepare_moments(samples.features, real.moments())
    elif isinstance(metric, MomentsMetric):
        raise ValueError(
            f"an interval of {metric.name} needs features of the samples, and "
            f"{samples.source or 'they'} has statistics only"
        )
    raise _needs_features(metric, samples, real)


def _needs_features(
    metric: Metric, samples: FeatureSet | FeatureStatistics, real: FeatureSet | FeatureStatistics
) -> ValueError:
    which = samples if isinstance(samples, FeatureStatistics) else real
    able = ", ".join(name for name, other in METRICS.items() if isinstance(other, MomentsMetric))
    return ValueError(
        f"{metric.name} needs features, and {which.source or 'one of the two'} has statistics "
        f"only; those do for {able}"
    )
