"""Noise levels at the timesteps of a `diffusers` scheduler.

A level is the standard deviation of the noise over that of the signal,

    sigma = sqrt((1 - abar) / abar) = std(noise) / std(signal),

the sigma of k-diffusion and EDM. It is read from `scheduler.sigmas`; between two of these, and for
schedulers without them (DDIM, DDPM, PNDM, ...), from `alphas_cumprod`. Flow-matching schedulers
blend `(1 - t) signal + t noise`: their level is `t / (1 - t)`.
"""

from __future__ import annotations

__all__ = ["ScheduledNoise", "noise_level", "numbers_of", "scheduled_noise"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ScheduledNoise:
    """What a scheduler tells of the noise at its timesteps.

    Args:
        times: The timesteps.
        sigmas: The scheduler's sigmas, one for each timestep; None if it has none.
        is_flow: Whether these sigmas are times of a flow.
        is_inverted: Whether that flow goes from noise to image, so that its times rise.
        has_midpoints: Whether timesteps at odd indices lie between two of the sigmas.
        alphas_cumprod: The signal's share of the variance by training timestep; None if unknown.
    """

    times: Sequence[float]
    sigmas: Sequence[float] | None
    is_flow: bool
    is_inverted: bool
    has_midpoints: bool
    alphas_cumprod: Any

    def at(self, index: int) -> float | None:
        """The noise level at the timestep of this index, None if the scheduler does not tell it."""
        if self.sigmas is not None and not (self.has_midpoints and index % 2 == 1):
            sigma = self.sigmas[index]
            if self.is_flow:
                sigma = 1 - sigma if self.is_inverted else sigma
                return math.inf if sigma >= 1 else max(sigma, 0.0) / (1 - sigma)
            return sigma if sigma >= 0 else None
        if self.alphas_cumprod is None:
            return None
        return _training_noise_level(self.alphas_cumprod, self.times[index])


def scheduled_noise(scheduler: Any, times: Sequence[float]) -> ScheduledNoise:
    """The noise of a scheduler at its timesteps.

    Args:
        scheduler: Any object; `sigmas`, `alphas_cumprod` and `config` are read if it has them.
        times: The scheduler's timesteps.
    """
    sigmas = getattr(scheduler, "sigmas", None)
    if "DDPMWuerstchen" in type(scheduler).__name__:  # its timesteps are all that it has
        steps = scheduler.timesteps
        alphas = numbers_of(scheduler._alpha_cumprod(steps, steps.device))
        return ScheduledNoise(times, list(map(noise_level, alphas)), False, False, False, None)
    # There may be one or two more sigmas than timesteps, for the end.
    levels = (
        numbers_of(sigmas) if sigmas is not None and 0 <= len(sigmas) - len(times) <= 2 else None
    )
    return ScheduledNoise(
        times,
        levels,
        is_flow=levels is not None and _is_flow(scheduler, times, levels),
        is_inverted=bool(getattr(scheduler, "config", {}).get("invert_sigmas", False)),
        # These two attributes mark the schedulers that call the model between two of their sigmas.
        # There, the call's noise level follows from `timesteps`, and not from `sigmas`.
        has_midpoints=hasattr(scheduler, "sigmas_interpol")
        or hasattr(scheduler, "mid_point_sigma"),
        alphas_cumprod=getattr(scheduler, "alphas_cumprod", None),
    )


def numbers_of(sequence: Any) -> list[float]:
    """The numbers in a tensor, array or list: one transfer from an accelerator, not many."""
    values = sequence.tolist() if hasattr(sequence, "tolist") else sequence
    return [float(value) for value in values]


def _is_flow(scheduler: Any, times: Sequence[float], sigmas: Sequence[float]) -> bool:
    """Whether sigma is the time of a flow: the timesteps are then the sigmas, scaled."""
    config = getattr(scheduler, "config", {})
    if config.get("use_flow_sigmas", False):
        return True
    if any("FlowMatch" in cls.__name__ for cls in type(scheduler).__mro__):
        # CogView 4's timesteps are not the sigmas; Cosmos has sigmas that are no times of a flow.
        return all(sigma <= 1 for sigma in sigmas)
    scale = config.get("num_train_timesteps", 1)
    # Up to two units of rounding: some schedulers cast their timesteps to integers.
    return all(
        abs(time - scale * sigma) <= 2 and sigma <= 1
        for time, sigma in zip(times, sigmas, strict=False)
    )


def _training_noise_level(alphas_cumprod: Any, time: float) -> float | None:
    """`sqrt((1 - abar) / abar)` at a training timestep, log-linear between two."""
    last = len(alphas_cumprod) - 1
    time = min(max(time, 0.0), float(last))
    below = math.floor(time)
    first, second = (
        noise_level(float(alphas_cumprod[step])) for step in (below, min(below + 1, last))
    )
    weight = time - below
    if weight == 0 or first == second or not (first > 0 and second < math.inf):
        return first
    return math.exp((1 - weight) * math.log(first) + weight * math.log(second))


def noise_level(alpha_cumprod: float) -> float:
    """The noise level of a share of the signal in the variance."""
    return math.inf if alpha_cumprod <= 0 else math.sqrt(max(1 - alpha_cumprod, 0) / alpha_cumprod)
