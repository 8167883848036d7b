"""A step of a sampler of ComfyUI."""

from __future__ import annotations

__all__ = ["ComfyStep", "Schedule"]

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import override

from ...denoisers.cfg_batch import BatchLayout
from ...denoisers.prediction import OutputKind, PredictionKind
from ...engine.context import StepContext
from ...schedule import StepPosition
from .units import noise_over_signal


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a run, and how its sampler goes from one to the next.

    Args:
        sigmas: ComfyUI's noise levels, falling; one more than there are steps.
        why_not_first_order: Why the sampler's steps are not deterministic ones of first order;
            empty if they are.
    """

    sigmas: Sequence[float]
    why_not_first_order: str

    @classmethod
    def of(cls, sampler: Any, sigmas: Tensor) -> Schedule:
        """The schedule of a run.

        Args:
            sampler: ComfyUI's sampler.
            sigmas: Its noise levels.
        """
        function = getattr(sampler, "sampler_function", None)
        name = str(getattr(function, "__name__", type(sampler).__name__))
        reason = ""
        if name != "sample_euler":
            reason = f"the sampler {name.removeprefix('sample_')} takes other steps"
        elif (getattr(sampler, "extra_options", None) or {}).get("s_churn"):
            reason = "the sampler adds noise (s_churn)"
        return cls(sigmas.detach().float().tolist(), reason)

    def index(self, sigma: float) -> int:
        """The step that a noise level belongs to: those between two are of the first of them."""
        levels = self.sigmas[: max(1, len(self.sigmas) - 1)]
        # Samplers compute some of the levels that they call the model with.
        reached = [place for place, level in enumerate(levels) if sigma <= level * (1 + 1e-5)]
        return reached[-1] if reached else 0


@dataclass(frozen=True)
class ComfyStep(StepContext):
    """One call of a sampler for the prediction at a noise level.

    Args:
        schedule: The noise levels of the run.
        sigma: ComfyUI's noise level.
        timestep: Gives what the denoiser is told of time, from 0 to 1000.
        kind: What it predicts.
    """

    schedule: Schedule
    sigma: float
    timestep: Callable[[], float]
    kind: PredictionKind

    @override
    def position(self) -> StepPosition:
        return self._position

    @functools.cached_property
    def _position(self) -> StepPosition:
        return StepPosition(
            self.schedule.index(self.sigma),
            max(1, len(self.schedule.sigmas) - 1),
            noise_over_signal(self.sigma, self.kind),
            self.timestep(),
        )

    @override
    def layout(self, rows: int) -> BatchLayout:
        return BatchLayout()  # A run tells it with each call.

    @override
    def output_kind(self) -> OutputKind:
        return OutputKind(prediction_type=self.kind)

    @override
    def next_noise(self) -> float:
        if self.schedule.why_not_first_order:
            raise ValueError(f"{self.schedule.why_not_first_order}; expected euler or ddim")
        later = self.schedule.sigmas[self.schedule.index(self.sigma) + 1]
        return noise_over_signal(later, self.kind)
