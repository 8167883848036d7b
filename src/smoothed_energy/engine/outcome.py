"""What one call of a denoiser gave, with the negative predictions for it."""

from __future__ import annotations

__all__ = ["Outcome"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..denoisers.latent_layout import LatentLayout
from ..guidance.plan import Plan


@dataclass(frozen=True)
class Outcome:
    r"""What one call of a denoiser gave; nothing is corrected yet.

    Args:
        output: What the denoiser returned.
        prediction: All rows of the clean prediction, with a learned variance.
        channels: How many channels of it are a prediction; the rest is a learned variance.
        latent_layout: How the prediction lies; asked only if that matters.
        clean: For each plan, $s$.
        differences: For each plan, $s - \tilde s$.
        reached: For each plan, the names of the layers that were edited or observed.
        runs: For each plan, how often the denoiser ran for its negative prediction, at least once.
        observed: For each plan, what its probe kept of each layer in the clean pass, all rows.
    """

    output: Any
    prediction: Tensor
    channels: int
    latent_layout: Callable[[], LatentLayout]
    clean: dict[Plan, Tensor] = field(default_factory=dict)
    differences: dict[Plan, Tensor] = field(default_factory=dict)
    reached: dict[Plan, set[str]] = field(default_factory=dict)
    runs: dict[Plan, int] = field(default_factory=dict)
    observed: dict[Plan, Mapping[str, Tensor]] = field(default_factory=dict)

    def similarity(self, plan: Plan) -> float:
        """The cosine of the clean and the perturbed prediction, of the least similar sample."""
        clean = self.clean[plan].float().flatten(1)
        perturbed = clean - self.differences[plan].float().flatten(1)
        return float(torch.nn.functional.cosine_similarity(clean, perturbed).min())
