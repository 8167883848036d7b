"""Runs: the calls of their denoisers, and how the correction of a step enters what they give."""

from __future__ import annotations

__all__ = ["DenoiserState", "GuidedRun"]

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout, pair_layout
from ..families import Arguments
from ..intercept.module_call import ModuleCall
from .context import StepContext
from .finite import check_finite
from .observer import Observer
from .one_pass import Outcome
from .participant import Participant, ParticipantState
from .passes import PassRunner
from .step import GuidedStep, Members, Progress
from .summary import RunSummary


@dataclass(frozen=True, eq=False)
class _Corrected:
    """The call without the prompt is to come, and the step is finished in it."""

    step: GuidedStep
    context: StepContext


@dataclass(frozen=True, eq=False)
class _Replaced:
    """The call without the prompt is to come, and gives this, since a rule makes it useless."""

    output: Any


@dataclass(frozen=True)
class _Dropped:
    """The call without the prompt is to come, and the pipeline won't use what it gives."""


#: What is known of the next call of a denoiser where a step has two; None: it begins a step.
_Expected: TypeAlias = "_Corrected | _Replaced | _Dropped | None"


class DenoiserState(Members):
    """What a run knows of one denoiser.

    Args:
        denoiser: The denoiser.
        progress: How far the run is; by default it has no other denoisers.
        observers: Who looks at its steps.

    Attributes:
        runner: Runs its passes.
        calls: How often it was called.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        progress: Progress | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        super().__init__(progress, observers)
        self.runner = PassRunner(denoiser)
        self.calls = 0
        self._expected: _Expected = None

    @property
    def waits(self) -> bool:
        """Whether the last call was with the prompt, and the one without it is to come."""
        return isinstance(self._expected, (_Corrected, _Replaced))

    def skip_unconditional(self) -> None:
        """Expect no call without the prompt that nobody needs: the owner left it out."""
        expected = self._expected
        if isinstance(expected, _Corrected):
            if expected.step.corrects:
                return
            self._show_alone(expected)
        self._expected = None

    @override
    def find_layers_again(self) -> None:
        if not isinstance(self._expected, _Corrected):
            super().find_layers_again()

    @override
    def forget(self) -> None:
        super().forget()
        self._expected = None
        vars(self.runner).pop("related_rows", None)
        self.runner.look_for_other_caches()
        if "caches" in vars(self.runner) and self.runner.caches is not None:
            self.runner.caches.forget()

    def call(
        self, call: ModuleCall, participants: Sequence[Participant], context: StepContext
    ) -> Any:
        """One call of the denoiser; see `GuidedRun.call`."""
        if self.runner.family.is_of_own_guidance(Arguments(call.argument)):
            return call()
        self.calls += 1
        if self.runner.family.is_unknown and any(one.looks_for_layers for one in participants):
            from .last_chance import look_at_call  # noqa: PLC0415 - few runs need it

            look_at_call(self.runner, call)
        time = call.argument(self.runner.family.time)
        self.progress.note("latents", self.runner.sample(call), time)
        rules = []
        for participant in participants:
            member = self.of(participant)
            member.calls += 1
            if member.rule is not None:
                rules.append(member)
        if rules:
            limiting = self.without_cfg(participants, context)
            if limiting:
                return self._without_cfg(call, participants, context, limiting)
            for member in rules:
                member.guided_calls += 1
        return self._corrected(call, participants, context, context.layout)

    def _without_cfg(
        self,
        call: ModuleCall,
        participants: Sequence[Participant],
        context: StepContext,
        limiting: Sequence[ParticipantState],
    ) -> Any:
        """One call at a step whose CFG is taken away: the conditional rows stand for all."""
        batch = len(self.runner.sample(call))
        layout = context.layout(batch)
        if layout.has_cfg:
            for member in limiting:
                member.calls_without_cfg += 1
        self.runner.check_caches()
        caches = self.runner.caches
        if caches is not None:
            caches.check_known()
        if layout.separate:
            expected, self._expected = self._expected, None
            if isinstance(expected, _Replaced):
                family, arguments = self.runner.family, Arguments(call.argument)
                if family.is_needed_later(arguments):
                    call()
                return family.shared(expected.output, arguments)
            output = self._corrected(call, participants, context, _without_groups)
            self._expected = _Replaced(output)
            return output
        rows = layout.rows("conditional", batch)
        if not rows.is_all:
            self._check_rows_alone(participants)
        with nullcontext() if caches is None else caches.of("conditional rows"):
            part = self.runner.take_rows(call, rows)
            part.show_to_pre_hooks(self.runner.denoiser)
            output = self._corrected(part, participants, context, _without_groups)
        family = self.runner.family
        alone = family.prediction_in(output, Arguments(part.argument))
        repeated = alone.repeat(layout.groups, *([1] * (alone.ndim - 1)))
        return family.with_prediction(output, repeated)

    def _check_rows_alone(self, participants: Sequence[Participant]) -> None:
        """Check that the rows of a batch may be predicted without the others.

        Raises:
            RuntimeError: If somebody said, or it is known, that they depend on them.
        """
        related = ", ".join(self.runner.related_rows)
        if related or any(participant.rows == "all" for participant in participants):
            raise RuntimeError(
                "a rule that takes classifier-free guidance away runs the conditional rows alone, "
                f"but the rows of this batch are related ({related or 'rows=all'}); expected "
                "processors that treat each row by itself, or guidance without such a rule"
            )

    def _corrected(
        self,
        call: ModuleCall,
        participants: Sequence[Participant],
        context: StepContext,
        layout_of: Callable[[int], BatchLayout],
    ) -> Any:
        """One call of the denoiser, with the corrections of those participants that are active."""
        expected, self._expected = self._expected, None
        if isinstance(expected, _Dropped):
            return call()
        layout: BatchLayout | None = None
        if isinstance(expected, _Corrected):
            layout = layout_of(len(self.runner.sample(call)))
            if layout.separate and not layout.drops_unconditional:
                return self._second_call(expected.step, call, layout, context)
            self._show_alone(expected)
        step = self.step(participants, context)
        if not step.acts and not self.observers:
            output = call()
            arguments = Arguments(call.argument)
            self.progress.note("clean", self.runner.family.prediction_in(output, arguments))
            return output
        if layout is None:
            layout = layout_of(len(self.runner.sample(call)))
        if layout.separate and not layout.drops_unconditional:
            return self._first_call(step, call, layout, context)
        outcome = step.predict(self.runner, call, layout, context)
        if layout.drops_unconditional:
            self._expected = _Dropped()
        return _written(step, outcome, outcome.prediction, layout, context)

    def _first_call(
        self, step: GuidedStep, call: ModuleCall, layout: BatchLayout, context: StepContext
    ) -> Any:
        """The first of two calls, with the prompt, which stays as it is."""
        step.conditional = step.predict(self.runner, call, layout, context, ["conditional"])
        self._expected = _Corrected(step, context)
        return step.conditional.output

    def _second_call(
        self, step: GuidedStep, call: ModuleCall, layout: BatchLayout, context: StepContext
    ) -> Any:
        """The second of two calls, without the prompt, which is corrected."""
        assert step.conditional is not None
        outcome = step.predict(self.runner, call, layout, context, ["unconditional"])
        # What a batch [u, c] would give: only u is corrected, so this works once c is spent, too.
        both = torch.cat([outcome.prediction, step.conditional.prediction])
        return _written(step, outcome, both, pair_layout(layout.cfg_scale), context)

    def _show_alone(self, expected: _Corrected) -> None:
        """Finish a step whose call without the prompt did not come; only observers may miss it.

        Raises:
            RuntimeError: If the step was to be corrected in that call.
        """
        step = expected.step
        if step.corrects:
            raise RuntimeError(
                f"the {type(self.runner.denoiser).__name__} was called with a prompt, and the call "
                "without one, which was to be guided with it, did not come"
            )
        assert step.conditional is not None
        outcome = step.conditional
        _written(step, outcome, outcome.prediction, BatchLayout(), expected.context)


def _without_groups(rows: int) -> BatchLayout:
    """The layout of rows that are all conditional, which is CFG at a scale of 1."""
    return BatchLayout(cfg_scale=1.0)


def _written(
    step: GuidedStep,
    outcome: Outcome,
    prediction: Tensor,
    layout: BatchLayout,
    context: StepContext,
) -> Any:
    """What a denoiser returns in place of `outcome`, such that its caller's CFG gains delta.

    Args:
        step: The step.
        outcome: What the denoiser returned.
        prediction: `(B, *)`, the predictions of all branches, those of `outcome` first.
        layout: The meaning of their rows.
        context: What the caller knows of the step.
    """
    mean = prediction[:, : outcome.channels]
    predictions = functools.partial(layout.predictions, mean)
    combined = step.combine(predictions, outcome.latent_layout)
    delta = combined.delta
    step.show(predictions, delta, outcome.latent_layout, layout.cfg_scale, context)
    if delta is None:
        return outcome.output
    if combined.guided is not None:
        corrected = layout.replaced(prediction, combined.guided)
    else:
        if outcome.channels < prediction.shape[1]:
            variance = torch.zeros_like(prediction[: len(delta), outcome.channels :])
            delta = torch.cat([delta, variance], dim=1)
        corrected = layout.corrected(prediction, delta)
    step.progress.note("guided", corrected)
    return outcome.with_prediction(corrected[: len(outcome.prediction)])


class GuidedRun:
    """The calls of the denoisers of a run, from first to last, and what happened in them.

    A plan belongs to one denoiser, and so does all that is remembered from one call to the next.

    Args:
        denoisers: The denoisers, compiled or not.
        observers: Who looks at its steps; the list may change in mid-run.

    Attributes:
        states: What is known of each denoiser.
        progress: How far it is.
    """

    def __init__(self, *denoisers: nn.Module, observers: Sequence[Observer] = ()) -> None:
        self.progress = Progress()
        self._observers = observers
        self.states = {
            denoiser: DenoiserState(denoiser, self.progress, observers) for denoiser in denoisers
        }

    @property
    def calls(self) -> int:
        """How often a denoiser was called."""
        return sum([state.calls for state in self.states.values()])

    def call(
        self, call: ModuleCall, participants: Sequence[Participant], context: StepContext
    ) -> Any:
        """One call of a denoiser, corrected by those participants that are active.

        Args:
            call: The call.
            participants: All who take part at this moment.
            context: The step.
        """
        return self.states[call.module].call(call, participants, context)

    def begin(self) -> None:
        """Forget what earlier steps were like: other images begin."""
        for state in self.states.values():
            state.forget()
        for observer in self._observers:
            observer.begin()

    def check(self, cfg_scale: float | None = None) -> None:
        r"""Check that all latents and predictions since the last check are finite.

        Args:
            cfg_scale: CFG's $g$, if it is known.

        Raises:
            NonFiniteError: If they are not.
        """
        seen, self.progress.seen = self.progress.seen, []
        check_finite(seen, cfg_scale)

    def summary(self, participant: Participant) -> RunSummary:
        """What a participant did so far."""
        first, *others = [state.of(participant).summary() for state in self.states.values()]
        return sum(others, first)
