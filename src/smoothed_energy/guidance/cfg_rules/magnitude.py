r"""MAMBO-G: less CFG where the predictions are far apart.

References:
    | MAMBO-G: Magnitude-Aware Mitigation for Boosted Guidance (Zhu et al. 2025)
    | https://arxiv.org/abs/2508.03442
"""

from __future__ import annotations

__all__ = ["MagnitudeAwareGuidance"]

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ...settings.checks import check_positive
from ...settings.conversion import set_field
from ..guidance import About
from ..result_guidance import ResultStep
from .projection import norm
from .rule import SumRule


@dataclass(frozen=True)
class MagnitudeAwareGuidance(SumRule):
    r"""CFG with a scale that falls with the size of its own difference, sample by sample.

    $$D^\star = u + w\,(c - u), \qquad
      w = 1 + (g - 1) \exp\left(-\alpha \frac{\lVert c - u \rVert}{\lVert u \rVert}\right)$$

    Args:
        alpha: $\alpha$, a finite number above 0.
        steps: The steps at which it acts.

    Raises:
        ValueError: If a value is outside its set.

    Example:
        >>> with MagnitudeAwareGuidance().attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=10.0).images[0]
    """

    method: ClassVar[str] = "mambo-g"
    about: ClassVar[About] = About(
        "Magnitude-aware guidance",
        "nothing; CFG's scale falls where its difference is large",
        "no pass beyond CFG",
        "Zhu et al. 2025, arXiv 2508.03442",
        "needs CFG; choose a higher guidance scale than usual",
    )

    _: KW_ONLY
    alpha: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "alpha", check_positive("alpha", self.alpha))

    @override
    def combined(self, step: ResultStep) -> Tensor:
        c, u, g = step.conditional, step.unconditional, step.cfg_scale
        difference, size = norm(c - u), norm(u)
        ratio = difference / size.clamp_min(torch.finfo(size.dtype).tiny)
        scale = 1 + (g - 1) * torch.exp(-self.alpha * ratio)
        return u + scale.to(u.dtype) * (c - u)
