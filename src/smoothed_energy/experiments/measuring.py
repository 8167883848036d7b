"""Measuring an experiment's pictures: distances of sets, side effects, what the prompt names."""

from __future__ import annotations

__all__ = ["Measuring"]

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..evaluation import (
    METRICS,
    FeatureSet,
    FeatureStore,
    Pictures,
    Resampling,
    feature_set,
    open_extractor,
)
from ..evaluation.picture_metric import (
    PICTURE_METRICS,
    NetworkMetric,
    PairMetric,
    PictureMetric,
    TextMetric,
    open_picture_metric,
)
from ..evaluation.value import metric_title
from .drawn import Drawn
from .measured import Measured, SetColumn
from .reference import read_reference
from .row import Row
from .subject import Subject

# A distance of the set as a whole is measured for halves, too; those of a picture are averaged.
_SET_METRICS = ("frechet", "kernel", "precision", "recall")

_SIDE_EFFECTS = ("saturation", "contrast", "clipped", "sharpness")

#: Pixels that are measured at once: 64 pictures of 96 x 96.
_PIXELS_AT_ONCE = 64 * 96 * 96

#: Halves of more samples take hours for metrics that compare all pairs: no interval then.
_PAIRS_MOST = 5000


class Measuring:
    """Measures pictures of one subject, and keeps the features of all of them.

    Args:
        subject: The subject.
        store: The folder of features.
        resampling: How intervals are made.
        device: Where networks run.
    """

    def __init__(self, subject: Subject, store: Path, resampling: Resampling, device: str) -> None:
        self.subject = subject
        self.resampling = resampling
        self._store = FeatureStore(store)
        self._device = device
        self._extractor: Any = None
        self._reference: FeatureSet | None = None
        self._metrics: dict[str, Any] = {}

    @property
    def extractor(self) -> Any:
        """The extractor of set distances, opened when it is first needed."""
        if self._extractor is None:
            self._extractor = open_extractor(self.subject.features, device=self._device)
        return self._extractor

    @property
    def digests(self) -> dict[str, str]:
        """The digests of the networks that were used so far, by their names."""
        return {} if self._extractor is None else {self._extractor.name: self._extractor.digest}

    @property
    def reference(self) -> FeatureSet:
        """The features of real pictures.

        Raises:
            ValueError: If the subject has no reference.
        """
        if self._reference is None:
            place = self.subject.reference
            if place is None:
                raise ValueError(
                    f"distances need real pictures to compare {self.subject.title} with; expected "
                    "--reference FOLDER (the papers use the validation set of MS-COCO 2014)"
                )
            square = self.subject.square
            self._reference = read_reference(place, self.extractor, self._store, square)
        return self._reference

    def check(self, metrics: Iterable[str]) -> None:
        """Open what tables need before anything is drawn for them.

        Args:
            metrics: The names of metrics of pictures.

        Raises:
            ValueError: If there is no reference, or it can't be read.
            ImportError: If a package is missing.
        """
        _ = self.reference
        for name in metrics:
            self._metric(name)

    def measure(self, drawn: Drawn, pair: str, text: str) -> Measured:
        """All metrics of an experiment's rows.

        Args:
            drawn: The pictures.
            pair: The name of the metric of pairs: of a picture and the unguided one of its sample.
            text: The name of the metric of pictures and their prompts, measured where all have one.
        """
        count = len(drawn.samples)
        resampling = self.resampling if count >= 4 else None
        metrics = [name for name in _SET_METRICS if count >= METRICS[name].least]
        columns = [self._set_column(name) for name in metrics]
        wholes, halves = self._of_sets(drawn, metrics, resampling)
        names = list(_SIDE_EFFECTS)
        if any(row.baseline in drawn.paths for row in drawn.rows):
            names += ["color-shift", pair]
        if all(sample.prompt for sample in drawn.samples):
            names.insert(0, text)
        for name in names:
            metric = self._metric(name)
            columns.append(
                SetColumn(
                    name,
                    name.replace("-", " "),
                    metric.model or "mean over pictures",
                    metric.better,
                    metric.unit,
                    metric.bounds,
                )
            )
        for row, numbers in self._by_row(drawn, names):
            for name, each in numbers.items():
                wholes[row.label, name] = float(each.mean())
                if resampling is not None:
                    means = [each[half].mean() for half in resampling.halves(count)]
                    halves[row.label, name] = torch.stack(means)
        return Measured(
            drawn.rows,
            count,
            columns,
            self.resampling,
            self.reference.source,
            wholes,
            halves,
        )

    def _of_sets(
        self, drawn: Drawn, metrics: Sequence[str], resampling: Resampling | None
    ) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], Tensor]]:
        """Distances of each row as a whole, and of its random halves."""
        count = len(drawn.samples)
        wholes: dict[tuple[str, str], float] = {}
        halves: dict[tuple[str, str], Tensor] = {}
        real = self.reference.features

        def of_row(label: str, features: Tensor) -> None:
            for name in metrics:
                subsets = METRICS[name].subsets(features, real)
                wholes[label, name] = subsets(torch.arange(count))
                all_pairs = name != "frechet" and count > _PAIRS_MOST
                if resampling is not None and count >= 2 * METRICS[name].least and not all_pairs:
                    numbers = [subsets(half) for half in resampling.halves(count)]
                    halves[label, name] = torch.tensor(numbers, dtype=torch.float64)

        with _rows_at_once() as pool:
            waiting = []
            for row in drawn.rows:
                features = self._features(drawn.paths[row.label]).features
                waiting.append(pool.submit(of_row, row.label, features))
            for measured in waiting:
                measured.result()
        return wholes, halves

    def distances(self, drawn: Drawn, name: str) -> dict[str, float]:
        """A set distance of every row, without intervals."""
        found = {}
        for row in drawn.rows:
            features = self._features(drawn.paths[row.label])
            found[row.label] = METRICS[name](features.features, self.reference.features)
        return found

    def _features(self, paths: Sequence[Path]) -> FeatureSet:
        features = feature_set(Pictures(paths), self.extractor, store=self._store)
        assert isinstance(features, FeatureSet)
        return features

    def side_effects(self, drawn: Drawn) -> Measured:
        """Side effects alone, which need no real pictures and few samples."""
        wholes: dict[tuple[str, str], float] = {}
        columns = []
        paired = any(_has_pairs(drawn, row) for row in drawn.rows)
        names = [*_SIDE_EFFECTS, *(["color-shift"] if paired else [])]
        for name in names:
            metric = self._metric(name)
            columns.append(
                SetColumn(name, name.replace("-", " "), "mean over pictures", None, metric.unit)
            )
        for row, numbers in self._by_row(drawn, names):
            for name, each in numbers.items():
                wholes[row.label, name] = float(each.mean())
        return Measured(drawn.rows, len(drawn.samples), columns, self.resampling, "", wholes, {})

    def _by_row(
        self, drawn: Drawn, names: Sequence[str]
    ) -> Iterator[tuple[Row, dict[str, Tensor]]]:
        """Metrics of every picture of each row, those of pairs where it has them."""
        metrics = {name: self._metric(name) for name in names}

        def of_row(row: Row) -> dict[str, Tensor]:
            paired = _has_pairs(drawn, row)
            fit = {
                name: metric
                for name, metric in metrics.items()
                if paired or not isinstance(metric, PairMetric)
            }
            return self._of_pictures(drawn, row, fit)

        with _rows_at_once() as pool:
            yield from zip(drawn.rows, pool.map(of_row, drawn.rows), strict=True)

    def _of_pictures(self, drawn: Drawn, row: Row, metrics: Mapping[str, Any]) -> dict[str, Tensor]:
        """Metrics of every picture of a row, each picture read once: `(N,)` float64 each."""
        paths = drawn.paths[row.label]
        paired = any(isinstance(metric, PairMetric) for metric in metrics.values())
        pixels = Pictures(paths[:1])[0][0].numel()
        parts: dict[str, list[Tensor]] = {name: [] for name in metrics}
        for batch in _batches(range(len(paths)), max(1, _PIXELS_AT_ONCE // pixels)):
            pictures = self._read(paths, batch)
            others = self._read(drawn.paths[row.baseline], batch) if paired else None
            for name, metric in metrics.items():
                if isinstance(metric, TextMetric):
                    prompts = [drawn.samples[index].prompt for index in batch]
                    parts[name].append(metric(pictures, prompts))
                elif isinstance(metric, PairMetric):
                    assert others is not None
                    parts[name].append(metric(pictures, others))
                else:
                    assert isinstance(metric, PictureMetric)
                    parts[name].append(metric(pictures))
        return {name: torch.cat(part) for name, part in parts.items()}

    def _read(self, paths: Sequence[Path], indices: Iterable[int]) -> Tensor:
        pictures = Pictures([paths[index] for index in indices])
        return torch.stack([pictures[index] for index in range(len(pictures))])

    def _metric(self, name: str) -> Any:
        if name not in self._metrics:
            with_network = isinstance(PICTURE_METRICS[name], NetworkMetric)
            options = {"device": self._device} if with_network else {}
            self._metrics[name] = open_picture_metric(name, **options)
        return self._metrics[name]

    def _set_column(self, name: str) -> SetColumn:
        title, metric = metric_title(name, self.extractor.name), METRICS[name]
        return SetColumn(name, title, self.extractor.name, metric.better, bounds=metric.bounds)


def _rows_at_once() -> ThreadPoolExecutor:
    """Threads that measure rows: as many as there are cores for the threads of torch.

    Eigenvalues of a thousand samples keep one core busy, or two, however many there are.
    """
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // torch.get_num_threads()))


def _has_pairs(drawn: Drawn, row: Row) -> bool:
    """Whether a row has an unguided one to be compared with."""
    return row.baseline in drawn.paths and row.baseline != row.label


def _batches(items: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
