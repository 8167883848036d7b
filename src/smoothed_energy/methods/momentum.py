r"""Momentum of the prediction: guidance away from what was predicted before, with no second pass.

References:
    | Momentum Guidance: Plug-and-Play Guidance for Flow Models
    | (Su et al. 2026), https://arxiv.org/abs/2602.20360, which averages velocities
"""

from __future__ import annotations

__all__ = ["MomentumGuidance"]

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..guidance.clean_estimate import clean_and_noise, clean_slope, signal_and_noise
from ..guidance.guidance import About
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.plan import NegativeContext, Plan
from ..settings.checks import check_choice, check_unit
from ..settings.conversion import set_field

_NAME = "momentum of the prediction"


@dataclass(frozen=True)
class _Average:
    """The average of what earlier steps predicted, of predictions as they are."""

    decay: float

    def __call__(self, second: NegativeContext) -> Tensor:
        prediction = second.clean
        output = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        average: Tensor | None = second.memory.get("average")
        if average is None or average.shape != output.shape:
            second.memory["average"] = output
            return prediction
        second.memory["average"] = torch.lerp(output, average, self.decay)
        return average.to(prediction.dtype)


@dataclass(frozen=True)
class _AveragePicture:
    """The prediction whose clean picture is the average of those of earlier steps."""

    decay: float

    def __call__(self, second: NegativeContext) -> Tensor:
        signal, noise = signal_and_noise(second, _NAME)
        # Differences of estimates are divided by the noise level: half precision would magnify
        # its rounding until that is most of them.
        prediction, kind = second.clean, second.prediction_type
        output = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        if output.shape[2:] != second.sample.shape[2:]:
            raise ValueError(
                f"{_NAME} needs latents and predictions of one size; these are "
                f"{tuple(second.sample.shape)} and {tuple(output.shape)}"
            )
        x = second.sample[:, : output.shape[1]].to(output.dtype)
        clean, _ = clean_and_noise(kind, x, output, (signal, noise), _NAME)
        # In units of the picture: the denoiser's input may be scaled by the step.
        average = second.memory.get("average")
        if average is None or average.shape != clean.shape:
            second.memory["average"] = clean
            return prediction
        second.memory["average"] = torch.lerp(clean, average, self.decay)
        change: Tensor = (clean - average) / clean_slope(kind, signal, noise, _NAME)
        return (output - change).to(prediction.dtype)


@dataclass(frozen=True)
class MomentumGuidance(NegativeGuidance):
    r"""Guidance away from an average of what earlier steps predicted.

    $$p^\star = p + \gamma\,(p - m), \qquad m \leftarrow \beta\,m + (1 - \beta)\,p$$

    where $p$ is the clean picture that a step predicts, or the prediction itself, and $m$ the
    average of the steps before it. It costs no pass and looks into no layer: the plainest
    extrapolation there is, and so a control for guidances that do more. The first guided step has
    no average and no correction.

    Args:
        scale: $\gamma \ge -1$.
        steps: The guided steps; others are not averaged.
        formulation: `"conditional"` or `"unconditional"`.
        decay: $\beta$, in $[0, 1]$: the weight of the history; 0 is the last step alone, and 1 the
            first one forever.
        of: What is averaged: the `"picture"`, for which all kinds of prediction are the same, or
            the `"prediction"` as it is: of a flow that is the velocity, as in the paper.

    Raises:
        ValueError: If a value is outside its set; while generating, if pictures are averaged and
            the noise level or the kind of prediction is not known.

    Example:
        >>> with MomentumGuidance(scale=0.5).attach(pipe):
        ...     image = pipe("a lighthouse", guidance_scale=5.0).images[0]
    """

    method: ClassVar[str] = "momentum"
    about: ClassVar[About] = About(
        "Momentum of the prediction",
        "nothing; earlier steps are extrapolated",
        "no pass",
        "after Su et al. 2026, arXiv 2602.20360",
        "an extrapolation; a control for other methods",
    )

    needs_softmax: ClassVar[bool] = False

    _: KW_ONLY
    scale: float = 0.5
    decay: float = 0.5
    of: Literal["picture", "prediction"] = "picture"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "decay", check_unit("decay", self.decay))
        check_choice("of", self.of, ("picture", "prediction"))

    @property
    @override
    def is_uniform(self) -> bool:
        """Every step has its own noise level, and the first one has no average."""
        return False

    @override
    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        """No layers are edited, and nothing is replayed."""
        average = _AveragePicture if self.of == "picture" else _Average
        return self._plan(negative=average(self.decay), remembers=True)
