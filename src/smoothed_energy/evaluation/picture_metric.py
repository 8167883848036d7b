"""Metrics of single pictures by name: of a picture, with its prompt, beside another, over seeds."""

from __future__ import annotations

__all__ = [
    "PICTURE_METRICS",
    "AnyPictureMetric",
    "NetworkMetric",
    "PairMetric",
    "PictureMetric",
    "SeedsMetric",
    "TextMetric",
    "open_picture_metric",
    "register_picture_metric",
]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from ..settings.registration import register_metric_as
from .metric import Better


@dataclass(frozen=True)
class _Metric:
    """What metrics of pictures have in common.

    Args:
        name: Its name.
        better: Whether better pictures have a lower or a higher number; None where neither is
            better in itself.
        unit: What one unit of it is, for the head of a column; empty for plain numbers.
        bounds: The least and the greatest number that it can give.
        model: The network behind it and the size that pictures have for it; empty for formulas of
            pixels. Values compare only where it is the same.
    """

    name: str
    better: Better | None = None
    unit: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    model: str = ""

    @property
    def label(self) -> str:
        """The name, with the network behind it where there is one."""
        return f"{self.name} ({self.model})" if self.model else self.name

    def _check(self, pictures: Tensor) -> None:
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(
                f"{self.name}: pictures are {pictures.dtype} of shape {tuple(pictures.shape)}; "
                "expected uint8 of shape (B, 3, H, W)"
            )

    def _numbers(self, found: Tensor, count: int) -> Tensor:
        if tuple(found.shape) != (count,):
            raise ValueError(
                f"{self.name} gave numbers of shape {tuple(found.shape)} for {count} pictures; "
                f"expected ({count},)"
            )
        return found.detach().double().cpu()


@dataclass(frozen=True, kw_only=True)
class PictureMetric(_Metric):
    """A number for each picture.

    Args:
        measure: The numbers ``(B,)`` of pictures ``(B, 3, H, W)`` uint8 RGB.
    """

    measure: Callable[[Tensor], Tensor]

    def __call__(self, pictures: Tensor) -> Tensor:
        """The numbers ``(B,)`` float64 of pictures ``(B, 3, H, W)`` uint8 RGB.

        Raises:
            ValueError: If the pictures have another shape or dtype.
        """
        self._check(pictures)
        return self._numbers(self.measure(pictures), len(pictures))


@dataclass(frozen=True, kw_only=True)
class TextMetric(_Metric):
    """A number for each picture and the prompt that it was drawn for.

    Args:
        measure: The numbers ``(B,)`` of pictures ``(B, 3, H, W)`` uint8 RGB and B prompts.
    """

    measure: Callable[[Tensor, Sequence[str]], Tensor]

    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """The numbers ``(B,)`` float64 of pictures ``(B, 3, H, W)`` uint8 RGB and their prompts.

        Raises:
            ValueError: If the pictures have another shape or dtype, there are not as many prompts,
                or a prompt is empty: it asks for nothing, and so nothing can match it.
        """
        self._check(pictures)
        if isinstance(prompts, str) or len(prompts) != len(pictures):
            given = repr(prompts) if isinstance(prompts, str) else f"{len(prompts)} prompts"
            raise ValueError(
                f"{self.name}: {given} for {len(pictures)} pictures; expected one each"
            )
        for index, prompt in enumerate(prompts):
            if not prompt.strip():
                raise ValueError(f"{self.name}: prompt {index} is empty; expected a description")
        return self._numbers(self.measure(pictures, list(prompts)), len(pictures))


@dataclass(frozen=True, kw_only=True)
class PairMetric(_Metric):
    """A number for each pair of pictures of one seed, as guided beside unguided.

    Args:
        measure: The numbers ``(B,)`` of pictures and of what they are compared to, both
            ``(B, 3, H, W)`` uint8 RGB.
    """

    measure: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, pictures: Tensor, others: Tensor) -> Tensor:
        """The numbers ``(B,)`` float64 of pictures and others, both ``(B, 3, H, W)`` uint8 RGB.

        Raises:
            ValueError: If they have another dtype, or their shapes differ.
        """
        self._check(pictures)
        self._check(others)
        if pictures.shape != others.shape:
            raise ValueError(
                f"{self.name}: pictures of shape {tuple(pictures.shape)} beside others of shape "
                f"{tuple(others.shape)}; expected pairs of one size"
            )
        return self._numbers(self.measure(pictures, others), len(pictures))


@dataclass(frozen=True, kw_only=True)
class SeedsMetric(_Metric):
    """A number for the pictures of one prompt and several seeds, from their features.

    It knows nothing of the network that made the features: values compare only where that is the
    same.

    Args:
        measure: The number of features ``(N, D)``.
        least: How many pictures it needs.
    """

    measure: Callable[[Tensor], float]
    least: int = 2

    def __call__(self, features: Tensor) -> float:
        """The number of features ``(N, D)`` of the pictures of N seeds.

        Raises:
            ValueError: If they have another shape, or there are too few.
        """
        if features.ndim != 2 or len(features) < self.least:
            raise ValueError(
                f"{self.name}: features have shape {tuple(features.shape)}; expected "
                f"(N >= {self.least}, D)"
            )
        return float(self.measure(features))


#: Any of the metrics of pictures. Their classes say what they are called with.
AnyPictureMetric: TypeAlias = PictureMetric | TextMetric | PairMetric | SeedsMetric


@dataclass(frozen=True)
class NetworkMetric:
    """A metric that is known by name before its network is loaded.

    Args:
        name: Its name.
        kind: The class of the metric, which says what it is called with.
        load: Loads the network and gives the metric; its keyword arguments are those of
            `open_picture_metric`.
    """

    name: str
    kind: type[PictureMetric] | type[TextMetric] | type[PairMetric]
    load: Callable[..., PictureMetric | TextMetric | PairMetric]


_registered: dict[str, AnyPictureMetric | NetworkMetric] = {}

#: Names to metrics: a view of those that are registered.
PICTURE_METRICS: Mapping[str, AnyPictureMetric | NetworkMetric] = MappingProxyType(_registered)


def register_picture_metric(metric: AnyPictureMetric | NetworkMetric) -> None:
    """Make a metric known by its name.

    Args:
        metric: The metric. If its function was defined again, as when a notebook's cell runs twice,
            it takes the place of its earlier self.

    Raises:
        TypeError: If it is no metric of pictures.
        ValueError: If another metric has the name.
    """
    if not isinstance(metric, (_Metric, NetworkMetric)):
        raise TypeError(
            f"{metric!r} is not a metric of pictures; expected a PictureMetric, TextMetric, "
            "PairMetric, SeedsMetric or NetworkMetric"
        )
    register_metric_as(_registered, metric.name, metric, _function)


def open_picture_metric(name: str, **options: object) -> AnyPictureMetric:
    """A metric that is ready to measure.

    Args:
        name: Its name in `PICTURE_METRICS`.
        options: What its network needs, as ``device="cuda"`` or ``source="folder-or-hub-id"``; its
            `NetworkMetric.load` documents them. Formulas take none.

    Raises:
        ValueError: If there is no metric of that name.
        TypeError: If it has no such option.
        ImportError: If it needs a package that is not installed.
    """
    metric = _registered.get(name)
    if metric is None:
        raise ValueError(f"no metric {name!r}; available: {', '.join(sorted(_registered))}")
    if isinstance(metric, NetworkMetric):
        return metric.load(**options)
    if options:
        raise TypeError(f"{name} is a formula and takes no options; got {', '.join(options)}")
    return metric


def _function(metric: AnyPictureMetric | NetworkMetric) -> Callable[..., object]:
    return metric.load if isinstance(metric, NetworkMetric) else metric.measure
