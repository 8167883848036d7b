r"""Intervals of metrics over seeds, by resampling the samples.

A row's number is that of all its :math:`n` samples. How far it would move with other seeds is told
by random halves of them, drawn without replacement: the number of a half moves about that of the
whole as the number of the whole moves about that of all possible seeds, since
:math:`\sigma^2 (2/n - 1/n) = \sigma^2 / n` (half-sampling: Shao and Wu, "A General Theory for
Jackknife Variance Estimation", 1989). The usual bootstrap draws :math:`n` with replacement, so that
about a third of the samples come more than once, which a sum over samples does not mind, but what
counts neighbours, similar pairs or ranks does.

Most of these numbers depend on the count of samples: a Frechet distance is higher for a half than
for the whole. Quantiles of the halves are therefore moved by the difference of their mean to the
number of the whole. So an interval is one for *the number at this count*, not for that of
infinitely many samples. `docs/evaluation.md` has a simulation of how often such intervals are
right.

The difference of two rows with the same seeds is resampled with the same seeds in both: what
a seed does to both rows cancels.

Intervals are over seeds only. The reference is taken as given.
"""

from __future__ import annotations

__all__ = ["Interval", "Resampling", "interval", "paired_interval"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from ..settings.checks import check_count, check_number
from .metric import SubsetValue


@dataclass(frozen=True)
class Resampling:
    """How samples are resampled.

    Args:
        count: How many halves are drawn, at least 20.
        seed: Seed of the random halves. The same seed, count and number of samples give the same.
        level: How often the interval should hold the number, in (0, 1).
    """

    count: int = 200
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        check_count("count", self.count, least=20)
        check_count("seed", self.seed, least=0)
        if not 0 < check_number("level", self.level) < 1:
            raise ValueError(f"level={self.level!r}: expected a number between 0 and 1")

    @property
    def text(self) -> str:
        """How intervals are made, for people to read."""
        level = f"{100 * self.level:.3g} % interval"
        return f"{level}, {self.count} random halves of the seeds, seed {self.seed}"

    def ends(self, whole: float, halves: Sequence[float], samples: int) -> tuple[float, float]:
        """The ends of the interval around a number.

        Args:
            whole: The number of all samples.
            halves: Those of random halves.
            samples: How many samples there are.
        """
        tail = (1 - self.level) / 2
        low, high = np.quantile(halves, [tail, 1 - tail]) - np.mean(halves)
        # Of an odd number the half is smaller, and moves more.
        half = samples // 2
        scale = (half / (samples - half)) ** 0.5
        # Halves know the spread of few samples badly, and too small: Student's t mends both.
        scale *= _student(1 - tail, samples - 1) / NormalDist().inv_cdf(1 - tail)
        scale *= (samples / (samples - 1)) ** 0.5
        return float(whole + scale * low), float(whole + scale * high)

    def halves(self, samples: int) -> Iterator[Tensor]:
        """Indices of random halves of so many samples, ``(samples // 2,)`` int64 each.

        Raises:
            ValueError: If there are too few.
        """
        if samples < 4:
            raise ValueError(f"{samples} samples; an interval over seeds needs at least 4")
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.count):
            # Sorted, since metrics that gather rows of a matrix do so faster.
            yield torch.randperm(samples, generator=generator)[: samples // 2].sort().values


@dataclass(frozen=True)
class Interval:
    """A number with an interval over seeds.

    Args:
        value: The number of all samples.
        low: Lower end.
        high: Upper end.
        resampling: How it was made.
    """

    value: float
    low: float
    high: float
    resampling: Resampling

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside: for a difference, whether its sign can be told."""
        return not self.low <= 0 <= self.high


def interval(
    value: SubsetValue,
    samples: int,
    resampling: Resampling | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Interval:
    """The number of all samples, with its interval.

    Args:
        value: The number for samples at some indices, as `Metric.subsets` gives it.
        samples: How many samples there are.
        resampling: How they are resampled.
        progress: Called with 1 after each half.

    Raises:
        ValueError: If there are too few samples.
    """
    resampling = Resampling() if resampling is None else resampling
    whole = value(torch.arange(samples))
    found = []
    for half in resampling.halves(samples):
        found.append(value(half))
        if progress is not None:
            progress(1)
    return _around(whole, found, resampling, samples)


def paired_interval(
    first: SubsetValue,
    second: SubsetValue,
    samples: int,
    resampling: Resampling | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Interval:
    """The first row's number minus the second's, with its interval.

    Args:
        first: The number of a row for samples at some indices.
        second: The same of another row, in which each index is of the same seed (and prompt).
        samples: How many samples each has.
        resampling: How they are resampled.
        progress: Called with 1 after each half.

    Raises:
        ValueError: If there are too few samples.
    """
    return interval(
        lambda indices: first(indices) - second(indices), samples, resampling, progress=progress
    )


def _student(share: float, freedom: int) -> float:
    """A quantile of Student's t (Abramowitz and Stegun, 26.7.5), within 1 % from 3 on."""
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    found: float = z
    for power, term in enumerate(terms, start=1):
        found += term / freedom**power
    return found


def _around(whole: float, halves: list[float], resampling: Resampling, samples: int) -> Interval:
    low, high = resampling.ends(whole, halves, samples)
    return Interval(whole, low, high, resampling)
