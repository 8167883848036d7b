r"""Adaptive projected guidance: less of the part of CFG that saturates.

References:
    | Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models
    | (Sadat et al., ICLR 2025), https://arxiv.org/abs/2410.02416
"""

from __future__ import annotations

__all__ = ["AdaptiveProjectedGuidance"]

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor
from typing_extensions import override

from ...settings.checks import check_choice, check_number, check_unit, number_or_nan, refusal
from ...settings.conversion import set_field
from ..clean_estimate import clean_and_noise, clean_slope, signal_and_noise
from ..guidance import About
from ..result_guidance import ResultStep
from .projection import norm, split
from .rule import SumRule

Base = Literal["conditional", "unconditional"]
Space = Literal["prediction", "picture"]

_NAME = "apg"


@dataclass(frozen=True)
class AdaptiveProjectedGuidance(SumRule):
    r"""CFG by a difference with reversed momentum, a limited norm, and less along $c$.

    $$m \leftarrow (c - u) + \beta\,m, \qquad
      d = m \min(1, r / \lVert m \rVert), \qquad
      D^\star = c + (g - 1)\,(d_\perp + \eta\,d_\parallel)$$

    where $d_\parallel$ is the projection of $d$ on $c$, for every sample by itself. With
    $\beta = 0$, no limit and $\eta = 1$ it is CFG.

    Args:
        eta: $\eta$ in $[0, 1]$: how much of the part along $c$ is kept. 0 is the paper's.
        momentum: $\beta$ in $(-1, 1)$; below 0 it pushes away from earlier differences.
        norm: $r$, the largest norm of a sample's difference; 0 is no limit.
        base: What the changed difference is added to: $c$ as in the paper, or $u$ with the scale
            $g$, as in `diffusers` unless told otherwise.
        space: What is projected and limited: predictions as they are, as in `diffusers`, or the
            clean pictures that they stand for, as in the paper and in ComfyUI.
        steps: The steps at which it acts.

    Raises:
        ValueError: If a value is outside its set; while generating, if `space="picture"` and the
            noise level or the kind of prediction is not known.

    Example:
        >>> with AdaptiveProjectedGuidance(norm=15).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=15).images[0]
    """

    method: ClassVar[str] = "apg"
    about: ClassVar[About] = About(
        "Adaptive projected guidance",
        "nothing; CFG's difference is limited and projected",
        "no pass beyond CFG",
        "Sadat et al. 2024, arXiv 2410.02416",
        "needs CFG; the best norm depends on the model and its size of latents",
    )
    remembers: ClassVar[bool] = True

    _: KW_ONLY
    eta: float = 0.0
    momentum: float = -0.5
    norm: float = 15.0
    base: Base = "conditional"
    space: Space = "prediction"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "eta", check_unit("eta", self.eta))
        set_field(self, "momentum", check_number("momentum", self.momentum))
        if not -1 < self.momentum < 1:
            raise ValueError(f"momentum={self.momentum!r}: expected a number between -1 and 1")
        if not 0 <= number_or_nan(self.norm) < math.inf:
            raise refusal(
                self.norm, f"norm={self.norm!r}: expected a finite number >= 0 (0: no limit)"
            )
        set_field(self, "norm", check_number("norm", self.norm))
        check_choice("base", self.base, get_args(Base))
        check_choice("space", self.space, get_args(Space))

    @override
    def combined(self, step: ResultStep) -> Tensor:
        c, u, g = step.conditional, step.unconditional, step.cfg_scale
        onto, slope = self._onto(step)
        # Pictures are linear in predictions: their difference is a multiple.
        update = slope * (c - u)
        update = self._with_momentum(update, step)
        if self.norm:
            limit = (self.norm / norm(update)).clamp_max(1.0)
            update = update * limit.to(update.dtype)
        along, across = split(update, onto)
        update = (across + self.eta * along) / slope
        return c + (g - 1) * update if self.base == "conditional" else u + g * update

    def _onto(self, step: ResultStep) -> tuple[Tensor, float]:
        """What the difference is projected on, and the factor from predictions to that."""
        c = step.conditional
        if self.space == "prediction":
            return c, 1.0
        levels, kind = signal_and_noise(step, _NAME), step.prediction_type
        picture, _ = clean_and_noise(kind, step.latents(_NAME), c, levels, _NAME)
        # In units of the picture's own noise level: the input of some denoisers is scaled.
        return picture, clean_slope(kind, *levels, _NAME)

    def _with_momentum(self, update: Tensor, step: ResultStep) -> Tensor:
        if not self.momentum:
            return update
        before = step.memory.get("average")
        if before is not None and before.shape == update.shape:
            update = update + self.momentum * before
        step.memory["average"] = update
        return update
