"""What a sweep's file asks to be measured of its pictures, with intervals over seeds."""

from __future__ import annotations

__all__ = ["METRICS_FILE", "check_measurement", "measure"]

import json
from collections.abc import Mapping
from pathlib import Path

from ..evaluation import (
    METRICS,
    FeatureStore,
    Pictures,
    Resampling,
    Value,
    compare,
    feature_set,
    open_extractor,
)
from ..files.regular_file import check_regular
from .file import Sweep, SweepError
from .names import unknown_name
from .results import Results
from .tables import write_text

METRICS_FILE = "metrics.json"


def check_measurement(sweep: Sweep) -> None:
    """Refuse what can't be measured, before anything is drawn for it.

    Raises:
        SweepError: If a metric is not known, or there is nothing to compare with.
    """
    for name in sweep.metrics:
        if name not in METRICS:
            raise SweepError(f"metrics: {unknown_name(name, [*METRICS], 'a metric of sets')}")
    if not sweep.metrics:
        if sweep.against is not None:
            raise SweepError(
                f"against: {sweep.against} has no effect without metrics; expected some of "
                f"{', '.join(METRICS)} under `metrics`"
            )
        return
    if sweep.against is None:
        raise SweepError(
            "metrics: there is nothing to compare with; expected `against`, a folder of real "
            "pictures or a file of their statistics"
        )
    against = Path(sweep.against).expanduser()
    try:
        if not against.is_dir():
            check_regular(against)
    except FileNotFoundError:
        raise SweepError(f"against: {sweep.against} is not there") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SweepError(f"against: {sweep.against} can't be read ({reason})") from None


def measure(results: Results, *, device: str = "cpu") -> Mapping[str, list[Value]]:
    """The metrics of a sweep's file for each of its configurations, kept in `metrics.json`.

    Features are kept in the sweep's folder. Each number has an interval over seeds (200 random
    halves) if there are pictures enough.

    Args:
        results: The results of the sweep, all of them there.
        device: Where the network of features runs.

    Returns:
        The values by the labels of the configurations, in the order of the file's metrics.

    Raises:
        SweepError: If something can't be measured.
    """
    sweep = results.plan.sweep
    check_measurement(sweep)
    if not sweep.metrics:
        return {}
    store = FeatureStore(results.folder / "features")
    found: dict[str, list[Value]] = {}
    least = 2 * max(METRICS[name].least for name in sweep.metrics)
    try:
        extractor = open_extractor(sweep.features, device=device)
        real = feature_set(Path(str(sweep.against)).expanduser(), extractor, store=store)
        for configuration in results.plan.configurations:
            pictures = Pictures(results.paths(configuration), label=configuration.label)
            samples = feature_set(pictures, extractor, store=store)
            resampling = Resampling() if len(pictures) >= least else None
            found[configuration.label] = compare(samples, real, sweep.metrics, resamples=resampling)
    except (ImportError, ValueError) as error:
        raise SweepError(f"metrics: {error}") from error
    values = {label: [value.to_dict() for value in row] for label, row in found.items()}
    write_text(results.folder / METRICS_FILE, json.dumps(values, indent=1, ensure_ascii=False))
    return found
