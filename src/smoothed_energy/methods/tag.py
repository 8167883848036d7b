r"""Tangential amplifying guidance: more of the part of a step that turns the latents.

A sampler of first order without new noise changes the latents $x$ by a multiple of $x$ and a
multiple of the prediction $D$. So the part of the change that is orthogonal to $x$ grows as the
part of $D$ that is, for every kind of prediction; and that part alone is changed here.

References:
    | TAG: Tangential Amplifying Guidance for Hallucination-Resistant Sampling
    | (Cho et al. 2025), https://arxiv.org/abs/2510.04533
"""

from __future__ import annotations

__all__ = ["TangentialAmplifyingGuidance"]

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from ..guidance.cfg_rules.projection import split
from ..guidance.guidance import About
from ..guidance.result_guidance import ResultGuidance, ResultStep
from ..settings.checks import check_number, number_or_nan, refusal
from ..settings.conversion import set_field


@dataclass(frozen=True)
class TangentialAmplifyingGuidance(ResultGuidance):
    r"""The part of the guided prediction that is orthogonal to the noisy latents, made larger.

    $$D^\star = D_\parallel + \eta\,D_\perp$$

    where $D$ is what CFG and all corrections give, $D_\parallel$ its projection on the latents, for
    every sample by itself. Under Euler and DDIM these are the parts of the step, as in the paper;
    schedulers that also use earlier predictions, or add noise, mix it with these.

    Args:
        eta: $\eta$, a finite number from 0; 1 changes nothing.
        steps: The steps at which it acts.

    Raises:
        ValueError: If a value is outside its set; while generating, if the latents have another
            size than the prediction.

    Example:
        >>> with TangentialAmplifyingGuidance(1.05).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "tag"
    about: ClassVar[About] = About(
        "Tangential amplifying guidance",
        "nothing; the step's part across the latents is larger",
        "no pass",
        "Cho et al. 2025, arXiv 2510.04533",
        "exact under Euler and DDIM; little more than 1 is enough",
    )

    eta: float = 1.05
    _: KW_ONLY

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= number_or_nan(self.eta) < math.inf:
            raise refusal(self.eta, f"eta={self.eta!r}: expected a finite number >= 0")
        set_field(self, "eta", check_number("eta", self.eta))

    @property
    @override
    def is_off(self) -> bool:
        return self.eta == 1

    @override
    def result(self, step: ResultStep) -> Tensor:
        _, across = split(step.result, step.latents(self.method))
        return step.result + (self.eta - 1) * across
