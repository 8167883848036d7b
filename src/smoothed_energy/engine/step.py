r"""Guided steps and runs: the calls of denoisers, and the corrections of what they predict.

A step has two phases. `predict` collects what the denoiser predicts: $c$, $u$ and the negatives,
in one call with the batch `[u, c]`, in two calls, or in one call for each. `combine` makes the
total correction $\delta$ of them, so that the guided prediction is
$D^\star = u + g\,(c - u) + \delta$. Whoever runs the denoiser writes it back: `GuidedRun` into the
batch that a pipeline or a loop reads, a guider as its result.
"""

from __future__ import annotations

__all__ = ["BRANCHES", "DenoiserState", "GuidedRun", "GuidedStep", "Members"]

import functools
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout, Formulation, pair_layout
from ..denoisers.latent_layout import LatentLayout
from ..denoisers.prediction import Predictions, repeat_output, with_prediction
from ..guidance.combine import Correction, total
from ..intercept.module_call import ModuleCall
from ..schedule import StepPosition
from .context import StepContext
from .participant import Participant, ParticipantState
from .passes import Outcome, PassRunner
from .summary import RunSummary

#: The predictions under CFG, in the order in which two calls make them.
BRANCHES: tuple[Formulation, ...] = ("conditional", "unconditional")


class GuidedStep:
    r"""A step in which some guidances act, and what was predicted in it so far.

    Args:
        scales: $\gamma$ of each of them.

    Attributes:
        differences: $s - \tilde s$ of those whose negative is known.
        conditional: What the call with the prompt gave, where that without it is another call.
    """

    def __init__(self, scales: dict[ParticipantState, float]) -> None:
        self.scales = scales
        self.differences: dict[ParticipantState, Tensor] = {}
        self.conditional: Outcome | None = None

    def predict(
        self,
        runner: PassRunner,
        call: ModuleCall,
        layout: BatchLayout,
        context: StepContext,
        branches: Collection[Formulation] = BRANCHES,
    ) -> Outcome:
        """One call of the denoiser, and the negatives of what it predicts.

        Args:
            runner: Runs the passes of the denoiser.
            call: The call.
            layout: The meaning of its rows.
            context: The step.
            branches: The predictions that are perturbed in this call.
        """
        runner.check_caches()
        shape, has_cfg = runner.sample(call).shape, layout.has_cfg
        fresh: dict[ParticipantState, Hashable] = {}
        for member in self.scales:
            if member.formulation not in branches:
                continue
            # Without CFG there is one prediction, and both formulations mean it.
            branch = member.formulation if has_cfg else "conditional"
            made_from: Hashable = (runner, branch, shape[0] // layout.groups, shape[1:])
            if member.history.holds(made_from):
                self.differences[member] = member.history.use()
                member.reused_calls += 1
            else:
                fresh[member] = made_from
        plans = [
            member.plan if member.planned_for is runner else member.plan_in(runner)
            for member in fresh
        ]
        outcome = runner.run(call, plans, layout, context)
        for (member, source), plan in zip(fresh.items(), plans, strict=True):
            difference = outcome.differences[plan]
            member.guided_calls += 1
            member.layers |= outcome.reached[plan]
            member.history.keep(difference, source)
            member.history.note(functools.partial(outcome.similarity, plan))
            self.differences[member] = difference
        return outcome

    def combine(
        self,
        predictions: Callable[[Formulation], Predictions],
        latent_layout: Callable[[], LatentLayout],
    ) -> Tensor:
        r"""The correction $\delta$ of the whole step, without a learned variance.

        Args:
            predictions: What the step predicted, for the prediction that a guidance perturbs.
            latent_layout: How a prediction lies; asked only if that matters.
        """
        corrections = []
        for member, scale in self.scales.items():
            delta = scale * self.differences[member]
            if len(self.scales) == 1 and not member.combinations:
                return delta
            found = predictions(member.formulation)
            corrections.append(Correction(delta, member.combinations, found))
        return total(corrections, latent_layout)


class Progress:
    """How far a run is in its schedule.

    Attributes:
        index: The number of the last step whose position mattered.
        members: The participants of the run in each of its denoisers.
    """

    def __init__(self) -> None:
        self.index = 0
        self.members: list[Members] = []

    def reach(self, index: int) -> None:
        """Be at a step. FreeInit goes through the schedule several times: then others begin."""
        if index < self.index:
            for members in self.members:
                members.forget()
        self.index = index


class Members:
    """The participants of a run in one denoiser: who acts at a step, and what each remembers.

    Args:
        progress: How far the run is; by default it has no other denoisers.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._states: dict[Participant, ParticipantState] = {}
        self._progress = Progress() if progress is None else progress
        self._progress.members.append(self)

    def of(self, participant: Participant) -> ParticipantState:
        """The state of a participant."""
        state = self._states.get(participant)
        if state is None:
            state = self._states[participant] = ParticipantState(participant)
        return state

    def step(self, participants: Sequence[Participant], context: StepContext) -> GuidedStep:
        """A step, with those participants that correct it."""
        scales: dict[ParticipantState, float] = {}
        for participant in participants:
            state = self.of(participant)
            if state.rule is None and not state.is_off:
                scale = state.history.scale(functools.partial(self._position, context))
                if scale:
                    scales[state] = scale
        return GuidedStep(scales)

    def _position(self, context: StepContext) -> StepPosition:
        here = context.position()
        self._progress.reach(here.index)
        return here

    def without_cfg(
        self, participants: Sequence[Participant], context: StepContext
    ) -> list[ParticipantState]:
        """Those participants whose rules take CFG away at this step."""
        found = []
        for participant in participants:
            state = self.of(participant)
            if state.rule is None or state.is_off:
                continue
            if not state.rule.keeps_cfg(context.position()):
                found.append(state)
        return found

    def find_layers_again(self) -> None:
        """Plan anew where modules were replaced since the last call."""
        for state in self._states.values():
            state.find_layers_again()

    def forget(self) -> None:
        """Forget what earlier steps were like: other images begin."""
        self._progress.index = 0
        for state in self._states.values():
            if state.rule is None:
                state.history.forget()


class DenoiserState(Members):
    """What a run knows of one denoiser.

    Args:
        denoiser: The denoiser.
        progress: How far the run is; by default it has no other denoisers.

    Attributes:
        runner: Runs its passes.
        calls: How often it was called.
    """

    def __init__(self, denoiser: nn.Module, progress: Progress | None = None) -> None:
        super().__init__(progress)
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
        if "caches" in vars(self.runner) and self.runner.caches is not None:
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
        self.runner.check_caches()
        caches = self.runner.caches
        with nullcontext() if caches is None else caches.of("conditional rows"):
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
        progress = Progress()
        self.states = {denoiser: DenoiserState(denoiser, progress) for denoiser in denoisers}

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
