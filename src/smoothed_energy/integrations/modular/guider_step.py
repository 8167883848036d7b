"""Where a guider is in a run, as far as its block has told it."""

from __future__ import annotations

__all__ = ["GuiderStep"]

import math
from typing import Any

from torch import nn
from typing_extensions import override

from ...denoisers.cfg_batch import BatchLayout
from ...denoisers.prediction import OutputKind
from ...engine.context import StepContext
from ...schedule import StepPosition, following_noise, schedule_position
from ..pipeline_facts import has_learned_variance, prediction_type


class GuiderStep(StepContext):
    """A step of a guider.

    Args:
        guider: The guider.
        denoiser: The denoiser that is called, if it is known by now.
    """

    def __init__(self, guider: Any, denoiser: nn.Module | None = None) -> None:
        self._guider, self._denoiser = guider, denoiser

    @property
    def run_has_cfg(self) -> bool:
        """Whether the run has CFG at some step."""
        neutral = 0.0 if self._guider.use_original_formulation else 1.0
        return not math.isclose(self._guider.guidance_scale, neutral)

    @property
    def has_cfg(self) -> bool:
        """Whether this step has CFG if no rule turns it off."""
        guider = self._guider
        if not guider._enabled or not self.run_has_cfg:
            return False
        if guider._step is None:
            return True
        # Schedulers of second order have more steps than they are asked for.
        first, end = (
            int(part * guider._num_inference_steps) for part in (guider._start, guider._stop)
        )
        return bool(guider._step >= first and (guider._stop == 1 or guider._step < end))

    @property
    def cfg_scale(self) -> float:
        """CFG's $g$: $c + g (c - u)$ is $u + (g + 1) (c - u)$."""
        return float(self._guider.guidance_scale) + (
            1 if self._guider.use_original_formulation else 0
        )

    @override
    def position(self) -> StepPosition:
        guider = self._guider
        if guider._step is None:
            raise RuntimeError(
                "a guidance that is not alike at all steps needs to know the step; "
                "expected set_state(step, num_inference_steps, timestep) before it"
            )
        if guider.scheduler is not None:
            return schedule_position(guider.scheduler, guider._timestep)
        if guider._step >= guider._num_inference_steps:
            raise ValueError(
                f"step {guider._step} of {guider._num_inference_steps}: this scheduler has more "
                "timesteps than steps; expected guider.scheduler = pipe.scheduler, which knows them"
            )
        timestep = None if guider._timestep is None else float(guider._timestep)
        return StepPosition(guider._step, guider._num_inference_steps, None, timestep)

    @override
    def layout(self, rows: int) -> BatchLayout:
        return BatchLayout()  # All rows of a batch have one condition.

    @override
    def output_kind(self) -> OutputKind:
        guider = self._guider
        if guider.scheduler is None or self._denoiser is None:
            return OutputKind()
        return OutputKind(has_learned_variance(guider), prediction_type(guider, self._denoiser))

    @override
    def rescales(self) -> bool:
        return bool(self._guider.guidance_rescale > 0)

    @override
    def next_noise(self) -> float:
        scheduler = self._guider.scheduler
        if scheduler is None:
            raise ValueError("expected guider.scheduler = pipe.scheduler")
        return following_noise(scheduler, self.position())

    @property
    def is_last(self) -> bool:
        """Whether it is the last step of the run."""
        guider = self._guider
        if guider._step is None or guider._step + 1 < guider._num_inference_steps:
            return False
        # Schedulers of second order have more steps than they are asked for.
        if guider.scheduler is not None and guider._timestep is not None:
            return bool(float(guider._timestep) == float(guider.scheduler.timesteps[-1]))
        return bool(guider._step + 1 == guider._num_inference_steps)
