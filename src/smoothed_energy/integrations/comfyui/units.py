r"""What a model of ComfyUI predicts, in its own units.

ComfyUI hands predictions on as estimates $D$ of the clean picture, for latents in the sampler's
scale. The engine gets what `diffusers` would have, so that the same settings give the same picture:
the denoiser's own input, and its own output (noise, a velocity, ...). Whatever that is, $D$ is
linear in it: $D = a(x) + b\,F$.
"""

from __future__ import annotations

__all__ = ["Units", "noise_over_signal", "prediction_kind"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...denoisers.prediction import Preconditioned, PredictionKind


def prediction_kind(sampling: Any) -> PredictionKind:
    """What a model predicts.

    Args:
        sampling: The `model_sampling` of a model of ComfyUI.

    Raises:
        ValueError: If it is none of the known kinds.
    """
    names = [cls.__name__ for cls in type(sampling).__mro__]
    known: dict[str, PredictionKind] = {
        "CONST": "flow",
        "EDM": Preconditioned(float(getattr(sampling, "sigma_data", 1.0)), negative=False),
        "V_PREDICTION": "v_prediction",
        "EPS": "epsilon",
    }
    # From the last that is derived to the first: EDM is a V_PREDICTION, and X0 an EPS.
    if not {*names} & {"X0", "IMG_TO_IMG", "COSMOS_RFLOW"}:
        for name, kind in known.items():
            if name in names and (name == "EDM" or getattr(sampling, "sigma_data", 1.0) == 1):
                return kind
    raise ValueError(
        f"what a model with a sampling of {', '.join(names[1:3])} predicts is not known; expected "
        f"{', '.join(known)}"
    )


def noise_over_signal(sigma: float, kind: PredictionKind) -> float:
    """A noise level of this package for one of ComfyUI, which is the time of a flow for flows."""
    if kind != "flow":
        return sigma
    return math.inf if sigma >= 1 else max(sigma, 0.0) / (1 - sigma)


@dataclass(frozen=True, eq=False)
class Units:
    """The units of one step.

    Args:
        sampling: The `model_sampling` of the model.
        sigma: ComfyUI's noise level, a row for each sample.
    """

    sampling: Any
    sigma: Tensor

    def to_input(self, x: Tensor) -> Tensor:
        """Latents of the sampler as the denoiser gets them."""
        scaled: Tensor = self.sampling.calculate_input(self.sigma, x)
        return scaled

    def from_input(self, sample: Tensor) -> Tensor:
        """Latents of the sampler for those that the denoiser gets."""
        found: Tensor = sample / self.to_input(self._like(sample, 1.0))
        return found

    def to_prediction(self, denoised: Tensor, x: Tensor) -> Tensor:
        """What the denoiser predicted, for an estimate of the clean picture.

        Args:
            denoised: $D$.
            x: The latents of the sampler.
        """
        offset = self.sampling.calculate_denoised(self.sigma, torch.zeros_like(x), x)
        found: Tensor = (denoised - offset) / self._slope(x)
        return found

    def to_denoised(self, prediction: Tensor, x: Tensor) -> Tensor:
        """The estimate of the clean picture for a prediction."""
        found: Tensor = self.sampling.calculate_denoised(self.sigma, prediction, x)
        return found

    def as_change(self, delta: Tensor) -> Tensor:
        """How much the estimate changes where a prediction changes by `delta`."""
        return self._slope(delta) * delta

    def _slope(self, like: Tensor) -> Tensor:
        one = self._like(like, 1.0)
        found: Tensor = self.sampling.calculate_denoised(self.sigma, one, torch.zeros_like(one))
        return found

    def _like(self, tensor: Tensor, value: float) -> Tensor:
        """A number for each sample, in a shape that goes with a tensor."""
        shape = (len(tensor), *[1] * (tensor.ndim - 1))
        return torch.full(shape, value, device=tensor.device, dtype=torch.float32)
