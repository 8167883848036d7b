"""The position of a denoising step in its schedule."""

from __future__ import annotations

__all__ = ["StepPosition"]

from dataclasses import dataclass

from ..settings.checks import check_count
from ..settings.conversion import set_field


@dataclass(frozen=True)
class StepPosition:
    """Where a denoising step is in its schedule.

    Args:
        index: Position among the distinct noise levels of the schedule, from 0.
        count: Number of distinct noise levels in the schedule.
        sigma: Noise level, the standard deviation of the noise over that of the signal, in
            [0, inf]; None if unknown.
        timestep: The timestep given to the denoiser; None if unknown.
        similarity: How similar the perturbed prediction has been to the clean one in this run so
            far: the highest cosine of the two over all guided steps, where a step's cosine is that
            of the least similar sample in the batch. None before the first guided step.

    Raises:
        ValueError: Unless 0 <= index < count are integers, and sigma is not negative.
    """

    index: int
    count: int
    sigma: float | None = None
    timestep: float | None = None
    similarity: float | None = None

    def __post_init__(self) -> None:
        if type(self.index) is not int or type(self.count) is not int or self.index < 0:
            set_field(self, "index", check_count("index", self.index, 0))
            set_field(self, "count", check_count("count", self.count, 0))
        if self.index >= self.count:
            raise ValueError(
                f"a step's index must lie in [0, count); got {self.index} of {self.count}"
            )
        if self.sigma is not None and not self.sigma >= 0:
            raise ValueError(f"a noise level must lie in [0, inf]; got {self.sigma}")

    @property
    def fraction(self) -> float:
        """The part of the schedule that lies before this step, in [0, 1)."""
        return self.index / self.count
