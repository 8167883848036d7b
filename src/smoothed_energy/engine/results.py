r"""What a step comes to: its rule for the sum, its corrections, and what acts on the result."""

from __future__ import annotations

__all__ = ["Combined", "Results"]

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..denoisers.cfg_batch import BatchLayout, Formulation
from ..denoisers.latent_layout import ChannelsFirst, LatentLayout
from ..denoisers.prediction import Predictions
from ..guidance.result_guidance import ResultGuidance, ResultStep
from ..schedule import StepPosition
from .context import StepContext
from .participant import ParticipantState

#: What a step predicted, for the prediction that a guidance perturbs.
PredictionsOf = Callable[[Formulation], Predictions]


@dataclass(frozen=True, eq=False)
class Combined:
    r"""What a step comes to.

    Args:
        delta: How much higher it is than the pipeline's own sum; None if nobody acted.
        guided: The whole of it, where somebody said what it comes to; else the pipeline's own sum
            and `delta`.
    """

    delta: Tensor | None
    guided: Tensor | None = None


class Results:
    """Those who say what a step comes to.

    Args:
        members: All of them, in the order in which they were attached.

    Attributes:
        members: The same.
        is_raw: Whether predictions are as the denoiser made them; some blocks negate them before
            a guider gets them. Asked by those who need to know what they mean.
    """

    def __init__(self, members: Sequence[ParticipantState] = ()) -> None:
        self.members = members
        self._sample: Tensor | None = None
        self._rescaled = False
        self._context: StepContext | None = None
        self.is_raw: Callable[[], bool] = _always

    def __bool__(self) -> bool:
        return bool(self.members)

    def note(self, sample: Tensor, layout: BatchLayout, context: StepContext) -> None:
        """Take in the noisy latents of a call, the meaning of its rows, and the step."""
        self._sample, self._context = layout.rows("conditional", len(sample)).of(sample), context
        self._rescaled = layout.normalises or context.rescales()

    def combined(
        self,
        predictions: PredictionsOf,
        latent_layout: Callable[[], LatentLayout],
        corrections: Callable[[PredictionsOf], Tensor | None],
    ) -> Combined:
        r"""What the step comes to.

        Args:
            predictions: What the step predicted.
            latent_layout: How a prediction lies.
            corrections: The sum of the corrections, given predictions that may say what the sum of
                CFG is.

        Raises:
            ValueError: If CFG is on, but its scale is not known.
        """
        own = predictions("conditional")
        has_cfg = own.unconditional is not None
        acting = [member for member in self.members if has_cfg or not _of(member).needs_cfg]
        if not acting:
            return Combined(corrections(predictions))
        if has_cfg and own.cfg_scale is None:
            names = ", ".join([_of(member).method for member in acting])
            raise ValueError(
                f"{names} needs the scale of classifier-free guidance, and here there is not one "
                "that is known (InstructPix2Pix has two, Stable Video Diffusion one for each frame "
                "unless min_guidance_scale is max_guidance_scale); expected a pipeline with one "
                "scale; a loop of your own can tell it by cfg_scale= of step()"
            )
        step = _Step(
            _precise(own),
            latent_layout(),
            self._sample,
            self._context,
            self._rescaled,
            self.is_raw,
        )
        guided = step.predictions.combined
        rests = False
        for member in acting:
            if _of(member).replaces_sum:
                guided = step.after(member, guided)
                rests = rests or _of(member).rests(step.position)
                predictions = functools.partial(_with_sum, predictions, guided)
        correction = corrections(predictions)
        if correction is not None:
            guided = guided + correction
        for member in acting:
            # Where latents rest, nothing was predicted that could be remembered.
            if not (_of(member).replaces_sum or (rests and _of(member).remembers)):
                guided = step.after(member, guided)
        return Combined(guided - step.predictions.combined, guided)


@dataclass(frozen=True, eq=False)
class _Step:
    """A step, in which one after the other says what it comes to.

    Args:
        predictions: What it predicted, in single precision at least.
        layout: How that lies.
        sample: The noisy latents of the same rows.
        context: The step.
        rescaled: Whether the pipeline rescales what comes out.
        is_raw: Whether predictions are as the denoiser made them.
    """

    predictions: Predictions
    layout: LatentLayout
    sample: Tensor | None
    context: StepContext | None
    rescaled: bool
    is_raw: Callable[[], bool]

    def position(self) -> StepPosition:
        """Where it is in its schedule."""
        assert self.context is not None
        return self.context.position()

    def after(self, member: ParticipantState, guided: Tensor) -> Tensor:
        """What the step comes to by a participant, who finds `guided`."""
        member.guided_calls += 1
        context, sample = self.context, self.sample
        assert context is not None
        unpack = self.layout.unpack
        before = unpack(guided)
        found = _of(member).result(
            ResultStep(
                self.predictions.unpacked(self.layout),
                before,
                member.memory,
                rescaled=self.rescaled,
                noisy=None if sample is None else functools.partial(unpack, sample),
                place=context.position,
                kind=lambda: context.output_kind().prediction_type if self.is_raw() else None,
                following=context.next_noise,
            )
        )
        if isinstance(self.layout, ChannelsFirst):
            return found
        # What the layout leaves out, such as tokens of a reference picture, stays as it is.
        return guided + self.layout.pack(found - before, guided)


def _always() -> bool:
    return True


def _of(member: ParticipantState) -> ResultGuidance:
    assert member.result is not None
    return member.result


def _precise(predictions: Predictions) -> Predictions:
    """In single precision at least: scales multiply what rounding did."""
    dtype = torch.promote_types(predictions.conditional.dtype, torch.float32)
    u = predictions.unconditional
    return replace(
        predictions,
        clean=predictions.clean.to(dtype),
        conditional=predictions.conditional.to(dtype),
        unconditional=None if u is None else u.to(dtype),
    )


def _with_sum(predictions: PredictionsOf, total: Tensor, formulation: Formulation) -> Predictions:
    return replace(predictions(formulation), total=total)
