r"""Self-guidance: away from what the denoiser predicts if it is told that there is more noise.

References:
    | Self-Guidance: Boosting Flow and Diffusion Generation on Their Own
    | (Li et al. 2024), https://arxiv.org/abs/2412.05827
"""

from __future__ import annotations

__all__ = ["SelfGuidance"]

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.prediction import Preconditioned
from ..guidance.guidance import About
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.plan import NegativeContext, Plan
from ..settings.checks import check_positive
from ..settings.conversion import set_field


@dataclass(frozen=True)
class _ToldLater:
    """The prediction for the same input, with a time of more noise."""

    shift: float

    def __call__(self, second: NegativeContext) -> Tensor:
        if isinstance(second.prediction_type, Preconditioned):
            raise ValueError(
                "self-guidance shifts timesteps, and the times of this scheduler are logarithms of "
                "noise levels; expected a scheduler with timesteps from 0 to 1000"
            )
        return second.predict(second.told_later(self.shift))


@dataclass(frozen=True)
class SelfGuidance(NegativeGuidance):
    r"""Guidance away from a prediction of the same denoiser, told a noisier time (SG).

    $\tilde s$ is predicted for the same latents at the timestep $\min(t + \delta, 1000)$, of
    schedules that count to 1000. It needs no prompt and no layers.

    Args:
        scale: $\gamma \ge -1$; the released code takes 3, and 1 for Flux.
        steps: The guided steps.
        formulation: `"conditional"` or `"unconditional"`.
        shift: $\delta > 0$; 10 in the released code.

    Raises:
        ValueError: If a value is outside its set; while generating, if it is not known how the
            denoiser is told the time, or every token has its own.

    Example:
        >>> with SelfGuidance(scale=3.0).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "sg"
    about: ClassVar[About] = About(
        "Self-guidance",
        "the denoiser is told that there is more noise",
        "a whole second pass",
        "Li et al. 2024, arXiv 2412.05827",
        "not for schedules of noise levels (EDM)",
    )

    needs_softmax: ClassVar[bool] = False

    _: KW_ONLY
    shift: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "shift", check_positive("shift", self.shift))

    @override
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        """The second pass has another input, so nothing is replayed."""
        return self._plan(negative=_ToldLater(self.shift))
