r"""CFG++: the guided prediction gives the clean picture, and the unconditional one the noise.

A deterministic sampler of first order splits a prediction into a clean picture and noise, and mixes
them again at the next noise level. CFG++ takes the picture of $u + \lambda (c - u)$ and the noise
of $u$. What comes out is linear in $c - u$, so it is CFG at a scale that depends on the step alone:

$$w = \frac{\lambda}{1 - \sigma'/\sigma}$$

with the noise levels $\sigma$ of the step and $\sigma'$ of the next one. It holds for Euler and
DDIM, and for all kinds of prediction, since each is linear in the noise.

References:
    | CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models
    | (Chung et al., ICLR 2025), https://arxiv.org/abs/2406.08070
"""

from __future__ import annotations

__all__ = ["PlusPlusGuidance"]

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from ...settings.checks import check_positive
from ...settings.conversion import set_field
from ..guidance import About
from ..result_guidance import ResultStep
from .rule import SumRule

_NAME = "cfgpp"


@dataclass(frozen=True)
class PlusPlusGuidance(SumRule):
    r"""CFG++ at a scale of its own; that of the pipeline only turns CFG on.

    Args:
        scale: $\lambda$, a finite number above 0; the paper's are between 0 and 1, and 0.6 is
            about what a guidance scale of 7.5 is for Stable Diffusion.
        steps: The steps at which it acts.

    Raises:
        ValueError: If a value is outside its set; while generating, if the scheduler takes no
            deterministic step of first order (expected Euler, flow-matching Euler or DDIM).

    Example:
        >>> with PlusPlusGuidance(scale=0.6).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=7.5).images[0]
    """

    method: ClassVar[str] = "cfgpp"
    about: ClassVar[About] = About(
        "CFG++",
        "nothing; the next noise is that of the unconditional prediction",
        "no pass beyond CFG",
        "Chung et al. 2024, arXiv 2406.08070",
        "needs CFG, under Euler or DDIM; its scale takes the place of the pipeline's",
    )

    _: KW_ONLY
    scale: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "scale", check_positive("scale", self.scale))

    @override
    def combined(self, step: ResultStep) -> Tensor:
        now, later = step.position().sigma, step.next_noise(_NAME)
        if now is None or not 0 <= later <= now:
            raise ValueError(
                f"{_NAME} needs noise levels that fall; this step goes from {now} to {later}"
            )
        # A last step from the lowest level to itself leaves the latents as they are.
        share = 0.0 if math.isinf(now) or later == now else later / now
        weight = self.scale / (1 - share)
        c, u = step.conditional, step.unconditional
        return u + weight * (c - u)
