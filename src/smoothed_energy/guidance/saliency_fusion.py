r"""Saliency-adaptive noise fusion: CFG and guidance share out the places of a picture.

References:
    | High-fidelity Person-centric Subject-to-Image Synthesis (Wang et al., CVPR 2024)
    | https://arxiv.org/abs/2311.10329
"""

from __future__ import annotations

__all__ = ["SaliencyFusion"]

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..denoisers.prediction import Predictions
from ..settings.checks import check_positive
from ..settings.conversion import set_field
from ..smoothing import GaussianBlur
from .combine import Combination


@dataclass(frozen=True)
class SaliencyFusion(Combination):
    r"""Saliency-adaptive noise fusion: at every place the stronger of the two guidances.

    $D + \delta$ becomes $u + f$ with $f$, at every place and channel, the one of $g\,(c - u)$ and
    $\delta$ that has the higher saliency: the softmax over space (all frames of a video) of its
    blurred magnitude (Wang et al. 2023, https://arxiv.org/abs/2311.10329). Without CFG there is one
    guidance, and nothing changes. Several fused guidances are one $\delta$, their sum; see `total`.

    Args:
        sigma: Width of the blur of the magnitudes, in latent pixels of a picture or frame.

    Raises:
        ValueError: If it is not a finite number above 0; from `apply`, if the prediction has no
            places, or CFG's scale is not known.
    """

    compares_places: ClassVar[bool] = True
    replaces_cfg: ClassVar[bool] = True

    sigma: float = 1.0

    def __post_init__(self) -> None:
        set_field(self, "sigma", check_positive("sigma", self.sigma))

    @override
    def apply(self, delta: Tensor, predictions: Predictions) -> Tensor:
        if delta.ndim < 4:
            raise ValueError(
                f"combine={self} compares places of a prediction, (B, C, H, W) or (B, C, F, H, W), "
                f"and this one has the shape {tuple(delta.shape)}; expected project, "
                "rescale:AMOUNT or no combine="
            )
        text = predictions.text_guidance
        if text is None:
            return delta
        stronger = self._saliency(delta) > self._saliency(text)
        # The pipeline adds text guidance by itself, so where ours is taken it is taken back.
        return torch.where(stronger, delta - text, torch.zeros_like(delta))

    def _saliency(self, guidance: Tensor) -> Tensor:
        grid = tuple(guidance.shape[2:])
        tokens = guidance.float().abs().flatten(2).mT
        blurred = GaussianBlur(self.sigma, padding="symmetric").apply(tokens, grid)
        # Its logarithm: of large magnitudes the softmax itself is 0 nearly everywhere.
        return blurred.log_softmax(dim=-2).mT.reshape(guidance.shape)

    def __str__(self) -> str:
        return "fuse" if self.sigma == 1 else f"fuse:{self.sigma!r}"
