"""The clean picture and the noise that a prediction stands for, whatever the denoiser predicts."""

from __future__ import annotations

__all__ = ["clean_and_noise", "clean_slope", "signal_and_noise"]

import math
from typing import Protocol

from torch import Tensor

from ..denoisers.prediction import Preconditioned, PredictionKind
from ..schedule import StepPosition


class Levelled(Protocol):
    """A step whose noise level and kind of prediction may be asked."""

    @property
    def prediction_type(self) -> PredictionKind:
        """What the denoiser predicts; None if it is not known."""

    def position(self) -> StepPosition:
        """Where the step is in its schedule."""


def signal_and_noise(second: Levelled, method: str) -> tuple[float, float]:
    """The factors of the clean picture and of the noise in the denoiser's input.

    Args:
        second: The step.
        method: Who asks, for the error.

    Raises:
        ValueError: If the noise level is not known.
    """
    sigma = second.position().sigma
    if sigma is None:
        raise ValueError(
            f"{method} needs the noise level, which is not known here; expected a scheduler with "
            "sigmas or alphas_cumprod, sigma= in step() of the attachment, or a guider that was "
            "told its scheduler by put_into(pipe)"
        )
    if second.prediction_type in ("flow", "reversed_flow"):
        noise = 1.0 if math.isinf(sigma) else sigma / (1 + sigma)
        return 1 - noise, noise
    if isinstance(second.prediction_type, Preconditioned):
        sigma /= second.prediction_type.sigma_data
    signal = 1 / math.sqrt(1 + sigma * sigma)
    return signal, math.sqrt(1 - signal * signal)


def clean_slope(kind: PredictionKind, signal: float, noise: float, method: str) -> float:
    """How much the estimate of the clean picture changes with the prediction: it is linear in it.

    Args:
        kind: What the denoiser predicts.
        signal: The factor of the clean picture in its input.
        noise: The factor of the noise.
        method: Who asks, for the error.

    Raises:
        ValueError: If it is not known what is predicted, or a prediction of noise tells nothing of
            the clean picture because there is only noise.
    """
    if isinstance(kind, Preconditioned):
        return -noise if kind.negative else noise
    if kind in ("v_prediction", "flow"):
        return -noise
    if kind == "reversed_flow":
        return noise
    if kind == "sample":
        return 1.0
    if kind == "epsilon":
        if signal < 1e-4:
            raise ValueError(
                "a noise prediction tells nothing of the clean image where there is only noise; "
                'expected steps without the first, such as "0.05:1"'
            )
        return -noise / signal
    raise ValueError(
        f"{method} needs to know what the denoiser predicts; expected a scheduler "
        "that tells (epsilon, v_prediction, sample or flow) and latents that come first in the "
        "denoiser's input, or for a bare denoiser prediction_type= in step() of the attachment"
    )


def clean_and_noise(
    kind: PredictionKind, x: Tensor, output: Tensor, levels: tuple[float, float], method: str
) -> tuple[Tensor, Tensor]:
    """The clean picture, in units of the denoiser's input, and the noise of a prediction.

    Args:
        kind: What the denoiser predicts.
        x: Its noisy input, `(B, C, *)`.
        output: Its prediction, of the same shape.
        levels: The factors of the clean picture and of the noise in `x`.
        method: Who asks, for the error.

    Raises:
        ValueError: As `clean_slope`.
    """
    signal, noise = levels
    clean_slope(kind, signal, noise, method)  # refuses what has no estimate
    if isinstance(kind, Preconditioned):
        velocity = output if kind.negative else -output
        return signal * x - noise * velocity, noise * x + signal * velocity
    if kind == "v_prediction":
        return signal * x - noise * output, noise * x + signal * output
    if kind in ("flow", "reversed_flow"):
        velocity = output if kind == "flow" else -output
        return x - noise * velocity, x + signal * velocity
    if kind == "sample":
        return output, (x - signal * output) / max(noise, 1e-12)
    return (x - noise * output) / signal, output
