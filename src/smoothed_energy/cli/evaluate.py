"""``smoothed-energy evaluate``: how well a folder of pictures matches another."""

from __future__ import annotations

__all__ = ["command"]

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..files import whole_file
from ..models.device import check_device
from ..settings.printable import one_line, printable
from .evaluate_settings import EvaluateSettings, default_store
from .option import option_signature, settings_of
from .terminal import note, print_table, take_off
from .warning_lines import warnings_as_lines

if TYPE_CHECKING:
    from ..evaluation import Extractor, FeatureSet, FeatureStatistics, Value


def command(**options: Any) -> None:
    """Measure pictures against real ones: distances in features of a network, with intervals.

    A number's name says the network and how pictures are resized for it: numbers with other names
    can't be compared.
    """
    settings = settings_of(EvaluateSettings, options)
    settings.check()
    try:
        _evaluate(settings)
    # What is missing, or can't be read or written, is not a defect of this program.
    except (ImportError, OSError) as error:
        raise ValueError(str(error)) from error


def _evaluate(settings: EvaluateSettings) -> None:
    from ..evaluation import FeatureSet, compare, open_extractor
    from ..evaluation.evaluate import check_metrics

    metrics = [name.strip() for name in settings.metrics.split(",") if name.strip()]
    check_metrics(metrics)
    check_device(settings.device)
    extractor = open_extractor(settings.features, device=settings.device)
    assert settings.folder is not None
    samples = _read(settings.folder, extractor, settings)
    if settings.save_statistics is not None:
        statistics = samples.statistics() if isinstance(samples, FeatureSet) else samples
        statistics.save(settings.save_statistics)
        note(f"statistics of {statistics.source}: {settings.save_statistics}")
    if settings.against is None:
        return
    real = _read(settings.against, extractor, settings)
    halves = len(metrics) * (settings.intervals or 0)
    with _progress("intervals", halves) as step:
        values = compare(samples, real, metrics, resamples=settings.intervals, progress=step)
    _report(settings, samples.source, values)


def _read(
    source: Path, extractor: Extractor, settings: EvaluateSettings
) -> FeatureSet | FeatureStatistics:
    """The features of a folder, or statistics of a file."""
    from ..evaluation import FeatureStore, Pictures, feature_set, pictures_in

    if source.is_file():
        return feature_set(source, extractor)
    pictures = Pictures(pictures_in(source), label=source.resolve().name, square=settings.square)
    place: str | Path | None = settings.store or default_store()
    store = FeatureStore(None if place == "none" else place)
    with _progress(str(source), len(pictures)) as step:
        return feature_set(
            pictures, extractor, store=store, batch_size=settings.batch_size, progress=step
        )


@contextmanager
def _progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, which a function advances; warnings are lines above it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        disable=not total,
    )

    def show(line: str) -> None:
        bar.console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)

    with warnings_as_lines(show), bar:
        task = bar.add_task(printable(text), total=total)
        try:
            yield lambda count: bar.advance(task, count)
        except BaseException:
            take_off(bar)
            raise


def _report(settings: EvaluateSettings, samples: str, values: Sequence[Value]) -> None:
    if settings.json is not None:
        from .. import __version__

        text = json.dumps(
            {
                "smoothed_energy": __version__,
                "samples": samples,
                "values": [value.to_dict() for value in values],
            },
            indent=2,
        )
        if settings.json == "-":
            typer.echo(text)
            return
        with whole_file(Path(settings.json)) as file:
            file.write(f"{text}\n".encode())
    _print_table(samples, values)


def _print_table(samples: str, values: Sequence[Value]) -> None:
    intervals = values[0].intervals
    print_table(
        ("metric", "value", "better", "against"),
        [(value.name, value.text, value.better or "", value.against) for value in values],
        title=samples,
        caption=f"[low, high]: {intervals}" if intervals else "",
        whole=("value", "better"),
        width=200,
    )


# Typer makes the options from the signature.
command.__signature__ = option_signature(EvaluateSettings)  # type: ignore[attr-defined]
