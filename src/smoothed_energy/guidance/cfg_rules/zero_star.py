r"""CFG-Zero*: the unconditional prediction scaled to fit the conditional one, and a start at rest.

References:
    | CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models (Fan et al. 2025)
    | https://arxiv.org/abs/2503.18886
"""

from __future__ import annotations

__all__ = ["ZeroStarGuidance"]

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ...schedule import StepPosition
from ...settings.checks import check_count
from ...settings.conversion import set_field
from ..guidance import About
from ..result_guidance import ResultStep
from .projection import dot
from .rule import SumRule


@dataclass(frozen=True)
class ZeroStarGuidance(SumRule):
    r"""CFG with the unconditional prediction scaled by the best factor, sample by sample.

    $$D^\star = s\,u + g\,(c - s\,u), \qquad
      s = \frac{\langle c, u \rangle}{\lVert u \rVert^2}$$

    and $D^\star = 0$ in the first steps.

    Args:
        zero_steps: How many steps of the schedule, the first ones, predict 0: 1 as in `diffusers`;
            the paper recommends 4 % of them. Made for flow models, whose latents rest there.
        steps: The steps at which it acts.

    Raises:
        ValueError: If it is no number of steps; while generating, if a step predicts 0 and the
            pipeline divides by the size of that (`guidance_rescale`; Qwen-Image and Lumina 2
            always, or unless told otherwise).

    Example:
        >>> with ZeroStarGuidance().attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=4.0).images[0]
    """

    method: ClassVar[str] = "cfg-zero"
    about: ClassVar[About] = About(
        "CFG-Zero*",
        "nothing; CFG's unconditional prediction is scaled",
        "no pass beyond CFG",
        "Fan et al. 2025, arXiv 2503.18886",
        "needs CFG; made for flow models, elsewhere zero_steps=0",
    )

    _: KW_ONLY
    zero_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "zero_steps", check_count("zero_steps", self.zero_steps, 0))

    @override
    def rests(self, position: Callable[[], StepPosition]) -> bool:
        return bool(self.zero_steps) and position().index < self.zero_steps

    @override
    def combined(self, step: ResultStep) -> Tensor:
        c, u, g = step.conditional, step.unconditional, step.cfg_scale
        if self.rests(step.position):
            if step.rescaled:
                raise ValueError(
                    f"zero_steps={self.zero_steps} of cfg-zero predicts 0, and this pipeline "
                    "divides what it predicts by its size (guidance_rescale, or a norm); expected "
                    "zero_steps=0, or a pipeline that does not"
                )
            return torch.zeros_like(c)
        scaled = (dot(c, u) / (dot(u, u) + 1e-8)).to(u.dtype) * u
        return scaled + g * (c - scaled)
