r"""Guidance interval: the pipeline's own classifier-free guidance in some of the steps only.

References:
    | Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion
    | Models (Kynkaanniemi et al., NeurIPS 2024), https://arxiv.org/abs/2404.07724
"""

from __future__ import annotations

__all__ = ["GuidanceInterval"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from typing_extensions import override

from ...schedule import StepPosition, Steps, StepSelection, as_steps
from ...settings.conversion import set_field
from ..guidance import About
from .rule import CFGRule


@dataclass(frozen=True)
class GuidanceInterval(CFGRule):
    """Classifier-free guidance at the given steps, and none at the others.

    At the others the denoiser runs on the conditional rows alone, which saves half of its time
    there, and its prediction is taken for all rows.

    Args:
        steps: The steps with CFG: noise levels such as `"sigma:0.3:5"`, the paper's way, or any
            other selection; see `smoothed_energy.schedule.steps`.

    Raises:
        ValueError: If the steps are not understood, or depend on a perturbed prediction.

    Example:
        >>> with GuidanceInterval("sigma:0.3:5").attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=7.5).images[0]
    """

    method: ClassVar[str] = "interval"
    about: ClassVar[About] = About(
        "Guidance interval",
        "nothing; CFG is off at the other steps",
        "half a pass where CFG is off",
        "Kynkaanniemi et al. 2024, arXiv 2404.07724",
        "needs classifier-free guidance; goes beside another guidance",
    )
    steps: StepSelection | str | Sequence[str] = "all"

    def __post_init__(self) -> None:
        steps = as_steps(self.steps)
        if steps.needs_similarity:
            raise ValueError(
                f"steps={str(steps)!r} depends on a perturbed prediction, and an interval of CFG "
                "makes none; expected steps by fractions, noise levels or every n-th"
            )
        set_field(self, "steps", steps)

    @property
    @override
    def is_off(self) -> bool:
        return self.steps == Steps()

    @override
    def keeps_cfg(self, position: StepPosition) -> bool:
        return self.is_off or cast(StepSelection, self.steps).active(position)
