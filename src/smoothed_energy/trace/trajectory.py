r"""Trajectories: the noisy latents of a run step by step, and how far two of them come apart."""

from __future__ import annotations

__all__ = ["Divergence", "GrowthRate", "Trajectory", "divergence", "trajectories"]

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from ..settings.checks import check_positive
from .packages import pandas, scipy_stats
from .recorder import StepRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The noisy latents of a run, as the denoiser gets them.

    The first are the noise that a run begins with, so two runs of one seed have them in common; the
    result of the last step is not among them. They are in the scheduler's own scaling of the
    denoiser's input.

    Args:
        latents: `(steps, B, C, *)`, float32 on the CPU, or float64 if the run's were.
    """

    latents: Tensor

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.latents)


def trajectories(records: Sequence[StepRecord]) -> list[Trajectory]:
    """The trajectories of runs, in their order.

    Raises:
        ValueError: If latents were not kept.
    """
    runs: dict[int, list[Tensor]] = {}
    for record in records:
        if record.latents is None:
            raise ValueError("this trace keeps no latents; expected Trace(..., trajectory=True)")
        runs.setdefault(record.run, []).append(record.latents)
    return [Trajectory(torch.stack(latents)) for latents in runs.values()]


@dataclass(frozen=True)
class GrowthRate:
    r"""The rate $\lambda$ of a distance that grows as $e^{\lambda t}$ with the step $t$.

    Args:
        rate: $\lambda$ by least squares of the logarithm of the distance, mean over samples.
        low: The lower end of its confidence interval.
        high: The upper end.
        first: The first step of the fit.
        last: The last one.
        over: What the interval is over: `"samples"`, whose rates are independent (Student's t of
            their mean), or with one sample `"steps"`, from the residuals of the line. Residuals
            of successive steps are alike, so that one is too narrow.
    """

    rate: float
    low: float
    high: float
    first: int
    last: int
    over: Literal["samples", "steps"]


@dataclass(frozen=True, eq=False)
class Divergence:
    r"""How far two trajectories are apart, step by step.

    Args:
        l2: $\lVert a_t - b_t \rVert$, `(steps, B)`, float64.
        relative_l2: The same over $\lVert a_t \rVert$.
        largest: $\max \lvert a_t - b_t \rvert$.
    """

    l2: Tensor
    relative_l2: Tensor
    largest: Tensor

    @property
    def table(self) -> pd.DataFrame:
        """A row for each `step` and `sample`, with `l2`, `relative_l2` and `max`."""
        steps, samples = self.l2.shape
        columns = {
            "step": np.repeat(np.arange(steps), samples),
            "sample": np.tile(np.arange(samples), steps),
        }
        distances = {"l2": self.l2, "relative_l2": self.relative_l2, "max": self.largest}
        columns |= {name: value.flatten().numpy() for name, value in distances.items()}
        table: pd.DataFrame = pandas().DataFrame(columns)
        return table

    def first_difference(self) -> list[int | None]:
        """For each sample the first step at which any number differs; None if none does."""
        return _first(self.largest > 0)

    def first_above(self, relative: float) -> list[int | None]:
        """For each sample the first step whose relative distance is greater; None if none is.

        Args:
            relative: A bound of `relative_l2`. Latents in float32 differ by 6e-8 of a number or
                not at all, so lower bounds tell whether they differ.
        """
        return _first(self.relative_l2 > relative)

    def growth(
        self, first: int | None = None, last: int | None = None, *, confidence: float = 0.95
    ) -> GrowthRate:
        """The rate at which the L2 distance grows.

        Args:
            first: The first step of the fit; by default the first at which all samples differ.
            last: The last one; by default the last of the run.
            confidence: That of the interval.

        Raises:
            ImportError: If scipy is not there.
            ValueError: If there are fewer than three steps, or a distance of 0 among them.
        """
        steps = len(self.l2)
        if first is None:
            differs = (self.l2 > 0).all(dim=1).tolist()
            first = differs.index(True) if True in differs else steps
        last = steps - 1 if last is None else last
        if not (first >= 0 and last < steps and last - first >= 2):
            raise ValueError(
                f"a rate needs three steps at least; got {first} to {last} of {steps} steps"
            )
        distances = self.l2[first : last + 1]
        if not bool((distances > 0).all()):
            raise ValueError(
                f"the trajectories do not differ at all in some of the steps {first} to {last}, so "
                "there is no logarithm of their distance; expected a later first step"
            )
        if not 0 < check_positive("confidence", confidence) < 1:
            raise ValueError(f"confidence={confidence!r}: expected a number between 0 and 1")
        stats = scipy_stats()
        times = np.arange(first, last + 1)
        fits = [stats.linregress(times, sample) for sample in distances.log().T.numpy()]
        rates = np.array([fit.slope for fit in fits])
        result = functools.partial(GrowthRate, first=first, last=last)
        part = (1 + confidence) / 2
        mean = float(rates.mean())
        if len(rates) == 1:
            half = float(stats.t.ppf(part, len(times) - 2) * fits[0].stderr)
            return result(mean, mean - half, mean + half, over="steps")
        error = rates.std(ddof=1) / np.sqrt(len(rates))
        half = float(stats.t.ppf(part, len(rates) - 1) * error)
        return result(mean, mean - half, mean + half, over="samples")


def divergence(a: Trajectory, b: Trajectory) -> Divergence:
    """How far two trajectories are apart.

    Args:
        a: The one that relative distances are relative to.
        b: The other one.

    Raises:
        ValueError: If their steps, samples or latents are not of the same shape.
    """
    if a.latents.shape != b.latents.shape:
        raise ValueError(
            f"trajectories of shapes {tuple(a.latents.shape)} and {tuple(b.latents.shape)} can't "
            "be compared; expected (steps, B, C, *) alike"
        )
    reference = a.latents.double().flatten(2)
    apart = reference - b.latents.double().flatten(2)
    l2 = apart.norm(dim=-1)
    return Divergence(l2, l2 / reference.norm(dim=-1), apart.abs().amax(dim=-1))


def _first(holds: Tensor) -> list[int | None]:
    """The first step at which a condition `(steps, B)` holds, for each sample."""
    found: list[int | None] = []
    for sample in holds.T.tolist():
        found.append(sample.index(True) if True in sample else None)
    return found
