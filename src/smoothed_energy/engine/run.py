"""The calls of a run's denoisers, corrected in the batches that pipelines and loops read."""

from __future__ import annotations

__all__ = ["DenoiserState", "GuidedRun"]

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout, pair_layout
from ..denoisers.prediction import repeat_output, with_prediction
from ..intercept.module_call import ModuleCall
from .context import StepContext
from .members import Members
from .participant import Participant, ParticipantState
from .runner import Outcome, PassRunner
from .step import GuidedStep
from .summary import RunSummary


class DenoiserState(Members):
    """What a run knows of one denoiser.

    Args:
        denoiser: The denoiser.

    Attributes:
        runner: Runs its passes.
        calls: How often it was called.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.runner = PassRunner(denoiser)
        self.calls = 0
        # The step whose call without the prompt is to come, if it is a call of its own.
        self._waiting: GuidedStep | None = None
        # What that call gives, where a rule makes it useless.
        self._instead: Any = None
        # Whether the next call is the one without the prompt, and the pipeline won't use it.
        self._drops_next = False

    @property
    def waits(self) -> bool:
        """Whether the last call was with the prompt, and the one without it is to come."""
        return self._waiting is not None or self._instead is not None

    def skip_unconditional(self) -> None:
        """Expect no call without the prompt that nobody needs: the owner left it out."""
        self._instead = None
        self._drops_next = False

    @override
    def find_layers_again(self) -> None:
        if self._waiting is None:
            super().find_layers_again()

    @override
    def forget(self) -> None:
        super().forget()
        self._waiting = None
        self.skip_unconditional()
        if self.runner.caches.exist:
            self.runner.caches.forget()

    def call(
        self, call: ModuleCall, participants: Sequence[Participant], context: StepContext
    ) -> Any:
        """One call of the denoiser; see `GuidedRun.call`."""
        self.calls += 1
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
        if layout.separate:
            if self._instead is not None:
                output, self._instead = self._instead, None
                return output
            self._instead = self._corrected(call, participants, context, _without_groups)
            return self._instead
        rows = layout.rows("conditional", batch)
        self.runner.caches.check()
        with self.runner.caches.of("conditional rows"):
            alone = self.runner.take_rows(call, rows)
            output = self._corrected(alone, participants, context, _without_groups)
        return repeat_output(output, layout.groups)

    def _corrected(
        self,
        call: ModuleCall,
        participants: Sequence[Participant],
        context: StepContext,
        layout_of: Callable[[int], BatchLayout],
    ) -> Any:
        """One call of the denoiser, with the corrections of those participants that are active."""
        if self._drops_next:
            self._drops_next = False
            return call()
        step, self._waiting = self._waiting, None
        if step is None:
            step = self.step(participants, context)
        if not step.scales:
            return call()
        layout = layout_of(len(self.runner.sample(call)))
        if layout.separate and not layout.drops_unconditional:
            return self._corrected_in_two_calls(step, call, layout, context)
        if step.conditional is not None:
            raise RuntimeError(
                f"the {type(self.runner.denoiser).__name__} was called with a prompt, and the call "
                "without one, which was to be guided with it, did not come"
            )
        outcome = step.predict(self.runner, call, layout, context)
        self._drops_next = layout.drops_unconditional
        return _written(step, outcome, outcome.prediction, layout)

    def _corrected_in_two_calls(
        self, step: GuidedStep, call: ModuleCall, layout: BatchLayout, context: StepContext
    ) -> Any:
        """One of two calls: first with the prompt, then without it, which is corrected."""
        if step.conditional is None:
            step.conditional = step.predict(self.runner, call, layout, context, ["conditional"])
            self._waiting = step
            return step.conditional.output
        outcome = step.predict(self.runner, call, layout, context, ["unconditional"])
        # What a batch [u, c] would give: only u is corrected, so this works once c is spent, too.
        both = torch.cat([outcome.prediction, step.conditional.prediction])
        return _written(step, outcome, both, pair_layout(layout.cfg_scale))


def _without_groups(rows: int) -> BatchLayout:
    """The layout of rows that are all conditional."""
    return BatchLayout()


def _written(step: GuidedStep, outcome: Outcome, prediction: Tensor, layout: BatchLayout) -> Any:
    """What a denoiser returns in place of `outcome`, such that its caller's CFG gains delta.

    Args:
        step: The step.
        outcome: What the denoiser returned.
        prediction: `(B, *)`, the predictions of all branches, those of `outcome` first.
        layout: The meaning of their rows.
    """
    mean = prediction[:, : outcome.channels]
    delta = step.combine(functools.partial(layout.predictions, mean), outcome.latent_layout)
    if outcome.channels < prediction.shape[1]:
        variance = torch.zeros_like(prediction[: len(delta), outcome.channels :])
        delta = torch.cat([delta, variance], dim=1)
    corrected = layout.corrected(prediction, delta)
    return with_prediction(outcome.output, corrected[: len(outcome.prediction)])


class GuidedRun:
    """The calls of the denoisers of a run, from first to last, and what happened in them.

    A plan belongs to one denoiser, and so does all that is remembered from one call to the next.

    Args:
        denoisers: The denoisers, compiled or not.
    """

    def __init__(self, *denoisers: nn.Module) -> None:
        self.states = {denoiser: DenoiserState(denoiser) for denoiser in denoisers}

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

    def summary(self, participant: Participant) -> RunSummary:
        """What a participant did so far."""
        first, *others = [state.of(participant).summary() for state in self.states.values()]
        return sum(others, first)
