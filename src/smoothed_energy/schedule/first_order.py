"""The noise level that a scheduler goes to in a deterministic step of first order."""

from __future__ import annotations

__all__ = ["following_noise"]

from typing import Any

from .noise import noise_level, numbers_of, scheduled_noise
from .position import StepPosition

_SIGMAS = ("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")
_ALPHAS = ("DDIMScheduler", "CogVideoXDDIMScheduler")


def following_noise(scheduler: Any, position: StepPosition, eta: float = 0.0) -> float:
    """The noise level after a step.

    Args:
        scheduler: A `diffusers` scheduler.
        position: The step.
        eta: How much new noise DDIM is asked to add.

    Raises:
        ValueError: If its step is not deterministic, of first order, and linear in the prediction.
    """
    names = [cls.__name__ for cls in type(scheduler).__mro__]
    config = scheduler.config
    refused = ""
    if not {*names} & {*_SIGMAS, *_ALPHAS}:
        refused = "takes other steps, or is not known"
    elif getattr(config, "stochastic_sampling", False):
        refused = "adds new noise (stochastic_sampling)"
    elif getattr(config, "invert_sigmas", False):
        refused = "has noise levels that rise (invert_sigmas)"
    elif {*names} & {*_ALPHAS}:
        if eta > 0:
            refused = f"adds new noise (eta={eta:g})"
        elif getattr(config, "clip_sample", False) or getattr(config, "thresholding", False):
            refused = "clips the clean picture (clip_sample or thresholding)"
    if refused:
        raise ValueError(
            f"{type(scheduler).__name__} {refused}; expected {', '.join((*_SIGMAS, *_ALPHAS))} "
            "with deterministic steps"
        )
    if {*names} & {*_ALPHAS}:
        return _of_ddim(scheduler, position)
    level = scheduled_noise(scheduler, numbers_of(scheduler.timesteps)).at(position.index + 1)
    assert level is not None  # these have sigmas, and none below 0
    return level


def _of_ddim(scheduler: Any, position: StepPosition) -> float:
    assert position.timestep is not None
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    later = round(position.timestep) - stride
    alphas = scheduler.alphas_cumprod
    return noise_level(float(alphas[later] if later >= 0 else scheduler.final_alpha_cumprod))
