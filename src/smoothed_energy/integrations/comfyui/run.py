r"""Runs of a sampler of ComfyUI, over the step engine.

ComfyUI asks twice in each step: for the predictions with the prompt and without it, and for what
they come to. The first is where passes run, the second where the guided prediction is made.
"""

from __future__ import annotations

__all__ = ["ComfyRun"]

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...denoisers.cfg_batch import BatchLayout, Formulation
from ...denoisers.latent_layout import ChannelsFirst
from ...denoisers.prediction import Predictions
from ...engine.finite import check_finite
from ...engine.one_pass import Outcome
from ...engine.participant import Participant, note_call
from ...engine.step import GuidedStep, Members
from ...engine.summary import warn_if_idle
from ...guidance import Guidance
from ...guidance.negative_guidance import NegativeGuidance
from ...intercept.module_call import ModuleCall
from .altered import ComfyRunner
from .denoiser import CONDITIONAL, UNCONDITIONAL, ComfyDenoiser, Conditioning, Denoised
from .known import denoiser_of
from .negative import TextOfRun
from .step import ComfyStep, Schedule
from .units import Units, prediction_kind

#: The branches in the order of a batch, and what they are called in the engine.
_BRANCHES: dict[int, Formulation] = {UNCONDITIONAL: "unconditional", CONDITIONAL: "conditional"}


@dataclass(frozen=True, eq=False)
class _Predicted:
    """A step whose predictions are made, and what they come to is to be said.

    Args:
        step: The step.
        context: Where it is.
        units: Its units.
        x: The latents of the sampler.
        has_cfg: Whether it has a prediction without the prompt.
    """

    step: GuidedStep
    context: ComfyStep
    units: Units
    x: Tensor
    has_cfg: bool


class ComfyRun:
    """A run of a sampler.

    Args:
        guidances: Those that act.
        schedule: Its noise levels.

    Attributes:
        participants: The guidances as the engine knows them.
    """

    def __init__(self, guidances: Sequence[Guidance], schedule: Schedule) -> None:
        self.participants = [Participant(guidance) for guidance in guidances]
        self._schedule = schedule
        self._members = Members()
        self._denoiser: ComfyDenoiser | None = None
        self._runner: ComfyRunner | None = None
        self._predicted: _Predicted | None = None
        self._probing: set[Participant] = set()

    def predict(self, asked: Mapping[str, Any]) -> Sequence[Tensor]:
        """ComfyUI's estimates of the clean picture, while negative predictions are made of them.

        Args:
            asked: What ComfyUI gives to a `sampler_calc_cond_batch_function`.
        """
        model, x, sigma = asked["model"], asked["input"], asked["sigma"]
        given: Sequence[Any] = asked["conds"]
        if len(given) != 2 or given[CONDITIONAL] is None:
            raise RuntimeError(
                f"{len(given)} branches of conditionings with {sum(c is None for c in given)} of "
                "them empty are not known; expected a prompt, and perhaps a negative prompt"
            )
        runner = self._runner_for(model, x)
        context = self._context(model, sigma)
        has_cfg = given[UNCONDITIONAL] is not None
        limiting = self._members.without_cfg(self.participants, context) if has_cfg else []
        note_call(map(self._members.of, self.participants), limiting, has_cfg=has_cfg)
        step = self._members.step(self.participants, context)
        self._members.progress.note("latents", x, context.sigma)
        has_cfg = has_cfg and not limiting
        branches = [branch for branch in _BRANCHES if branch == CONDITIONAL or has_cfg]
        units = Units(model.model_sampling, sigma)
        self._predicted = _Predicted(step, context, units, x, has_cfg)
        conds: list[Conditioning] = [(branch, given[branch]) for branch in branches]
        for member in step.scales:
            branch = _branch_of(member.formulation, has_cfg=has_cfg)
            _check_active(member.participant.guidance, [branch], given, sigma)
        for member in step.altering:
            plan = member.plan if member.planned_for is runner else member.plan_in(runner)
            of = plan.alteration.branch if plan.alteration is not None else None
            asked_of = branches if of is None else [_branch_of(of, has_cfg=has_cfg)]
            _check_active(member.participant.guidance, asked_of, given, sigma)
        # What is looked at or changed in layers must be of one branch at a time: first with the
        # prompt. ComfyUI runs branches together or apart as memory and texts allow.
        probed = [
            _branch_of(member.formulation, has_cfg=has_cfg)
            for member in step.scales
            if member.participant in self._probing
        ]
        altering = [member.participant.guidance for member in step.altering]
        within = [one for one in altering if isinstance(one, NegativeGuidance)]
        apart = bool(probed) or any(one.is_within for one in within)
        parts = [[one] for one in reversed(conds)] if apart else [conds]
        found = [
            self._call(runner, part, asked, probes=part[0][0] in probed and len(part) == 1)
            for part in parts
        ]
        denoised = dict(pair for outcome in found for pair in outcome)
        # Without CFG its sum is to be c, whatever the scale.
        c = denoised[CONDITIONAL]
        absent = c if limiting else x.new_zeros(x.shape)
        return [c, denoised.get(UNCONDITIONAL, absent)]

    def _call(
        self,
        runner: ComfyRunner,
        conds: list[Conditioning],
        asked: Mapping[str, Any],
        *,
        probes: bool,
    ) -> list[tuple[int, Tensor]]:
        """One call for some branches, and the negatives of what it predicts: by branch.

        Args:
            runner: Runs the passes.
            conds: The branches.
            asked: What ComfyUI asked.
            probes: Whether somebody looks at what layers compute.
        """
        found = self._predicted
        assert found is not None and self._denoiser is not None
        x, denoiser = found.x, self._denoiser
        denoiser.keeps_rows = None
        sample = found.units.to_input(x).repeat(len(conds), *([1] * (x.ndim - 1)))
        arguments = {"sigma": found.units.sigma, "conds": conds, "options": asked["model_options"]}
        forward = functools.partial(_in_one_run, denoiser) if probes else denoiser.forward
        call = ModuleCall(denoiser, forward, (), {"sample": sample, **arguments, "x": x})
        if not found.step.acts:
            output: Denoised = call()
            self._members.progress.note("clean", output.prediction)
        else:
            names = [_BRANCHES[branch] for branch, _ in conds]
            layout = BatchLayout()
            if len(conds) > 1:
                layout = BatchLayout(2, conditional=1, unconditional=0)
            elif found.has_cfg:
                # The scale, which is not known yet, is asked for where the step is combined.
                layout = BatchLayout(separate=True)
            else:
                names = [*_BRANCHES.values()]
            outcome = found.step.predict(runner, call, layout, found.context, names)
            _check_reached(outcome)
            output = outcome.output
        return [(branch, output.denoised[branch]) for branch, _ in conds]

    def combine(self, asked: Mapping[str, Any]) -> Tensor:
        """What a step comes to.

        Args:
            asked: What ComfyUI gives to a `sampler_post_cfg_function`.

        Raises:
            RuntimeError: If the predictions of the step were not made here.
        """
        found, self._predicted = self._predicted, None
        denoised: Tensor = asked["denoised"]
        if found is None or asked["input"] is not found.x:
            raise RuntimeError(
                "a step was combined whose predictions were not made by this package: its guider "
                "(PerpNeg and DualCFG, for instance) predicts in a way of its own; expected "
                "CFGGuider, BasicGuider or KSampler"
            )
        if not found.step.acts:
            return denoised
        x, units = found.x, found.units
        scale = float(asked["cond_scale"])
        c = units.to_prediction(asked["cond_denoised"], x)
        u = units.to_prediction(asked["uncond_denoised"], x) if found.has_cfg else None
        # Other nodes may have made something else of the sum.
        total = units.to_prediction(denoised, x)

        def predictions(formulation: Formulation) -> Predictions:
            clean = u if u is not None and formulation == "unconditional" else c
            known = scale if u is not None else None
            return Predictions(clean, c, u, known, total)

        combined = found.step.combine(predictions, ChannelsFirst)
        if combined.delta is None:
            return denoised
        if combined.guided is not None:
            result = units.to_denoised(combined.guided, x)
        else:
            result = denoised + units.as_change(combined.delta)
        result = result.to(denoised.dtype)
        self._members.progress.note("combined", result)
        return result

    def finish(self, latents: Tensor) -> None:
        """Say what is wrong with a run that is over.

        Args:
            latents: What it gave.

        Raises:
            NonFiniteError: If something in it is not finite.
            RuntimeError: If it had steps that nobody saw.
        """
        states = [self._members.of(participant) for participant in self.participants]
        acts = any(not state.is_off for state in states)
        if acts and len(self._schedule.sigmas) > 1 and not any(state.calls for state in states):
            raise RuntimeError(
                "no step of this run was guided, since its sampler or guider asks for predictions "
                "in a way of its own; expected KSampler, SamplerCustom, or SamplerCustomAdvanced "
                "with CFGGuider or BasicGuider"
            )
        self._members.progress.note("final latents", latents)
        check_finite(self._members.progress.seen)
        for participant, state in zip(self.participants, states, strict=True):
            warn_if_idle(participant.guidance, state.summary())

    def _runner_for(self, model: Any, latents: Tensor) -> ComfyRunner:
        """What runs the passes of a model: found once in a run."""
        if self._runner is None:
            self._denoiser = denoiser_of(model)
            self._runner = ComfyRunner(self._denoiser, TextOfRun(model, latents))
            for participant in self.participants:
                if isinstance(participant.guidance, NegativeGuidance):
                    plan = participant.plan_for(self._denoiser)
                    if plan.probed:
                        self._probing.add(participant)
        return self._runner

    def _context(self, model: Any, sigma: Tensor) -> ComfyStep:
        sampling = model.model_sampling
        level, kind = float(sigma.flatten()[0]), prediction_kind(sampling)

        def timestep() -> float:
            if kind == "flow":
                return 1000 * level
            return float(sampling.timestep(sigma.flatten()[:1].float())[0])

        return ComfyStep(self._schedule, level, functools.cache(timestep), kind)


def _branch_of(formulation: Formulation, *, has_cfg: bool) -> int:
    """The branch that is perturbed: without CFG there is one, and both formulations mean it."""
    return UNCONDITIONAL if has_cfg and formulation == "unconditional" else CONDITIONAL


def _check_active(
    guidance: Guidance,
    branches: Sequence[int],
    given: Sequence[Sequence[Mapping[str, Any]]],
    sigma: Tensor,
) -> None:
    """Check that one of some branches is predicted at a noise level.

    Args:
        guidance: Who perturbs or changes them.
        branches: The branches.
        given: The conditionings of all.
        sigma: ComfyUI's noise level.

    Raises:
        RuntimeError: If none of its prompts holds there (ConditioningSetTimestepRange): ComfyUI
            then predicts 0, and there is nothing to perturb.
    """
    level = float(sigma.flatten()[0])
    for entry in [entry for branch in branches for entry in given[branch]]:
        first, last = entry.get("timestep_start"), entry.get("timestep_end")
        if (first is None or level <= first) and (last is None or level >= last):
            return
    name = "negative prompt" if CONDITIONAL not in branches else "prompt"
    raise RuntimeError(
        f"{guidance.method} changes the prediction for the {name}, and no {name} holds at the "
        f"noise level {level:.4g}, which is outside of their time ranges; expected steps within "
        "these, or the other formulation"
    )


def _check_reached(outcome: Outcome) -> None:
    """Check that all chosen layers were reached.

    Raises:
        RuntimeError: If one was not.
    """
    for plan, reached in outcome.reached.items():
        missing = sorted({*plan.edits.values(), *plan.probed.values()} - reached)
        if missing:
            raise RuntimeError(
                f"{', '.join(missing)} was not reached in a guided step: another node replaces "
                "what it computes (attn1_replace, a replaced block) or skips it; expected a "
                "model without that, or other layers"
            )


def _in_one_run(denoiser: ComfyDenoiser, **arguments: Any) -> Denoised:
    """A call that is one run of the network, with one conditioning for each sample.

    Raises:
        RuntimeError: If it is not: what layers show could not be told apart.
    """
    found = denoiser.forward(**arguments)
    parts = [branch for inner in denoiser.inner for branch in inner.branches]
    if len(parts) != 1:
        raise RuntimeError(
            f"self-attention guidance looks at one prompt for each branch, and here one has "
            f"{len(parts)} (areas, combined prompts or windows over time); expected one prompt, or "
            "another method"
        )
    return found
