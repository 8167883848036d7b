r"""Guided steps: who acts in a step, what is predicted, and the correction that is made of it.

A step has two phases. `predict` collects what the denoiser predicts: $c$, $u$ and the negatives,
in one call with the batch `[u, c]`, in two calls, or in one call for each. `combine` makes the
total correction $\delta$ of them, so that the guided prediction is
$D^\star = u + g\,(c - u) + \delta$. Whoever runs the denoiser writes it back: `GuidedRun` into the
batch that a pipeline or a loop reads, a guider as its result.
"""

from __future__ import annotations

__all__ = ["BRANCHES", "GuidedStep", "Members", "Progress"]

import functools
from collections.abc import Callable, Hashable, Sequence

from torch import Tensor

from ..denoisers.cfg_batch import BatchLayout, Formulation
from ..denoisers.latent_layout import LatentLayout
from ..denoisers.prediction import Predictions
from ..guidance.combine import Correction, total
from ..guidance.plan import Plan
from ..intercept.module_call import ModuleCall, Rows
from ..schedule import StepPosition
from .altered import Acting
from .context import StepContext
from .finite import Seeable, Seen
from .observer import Observer, SeenGuidance, SeenStep
from .one_pass import Outcome
from .participant import Participant, ParticipantState
from .passes import PassRunner
from .results import Combined, Results
from .watch import Watch

#: The predictions under CFG, in the order in which two calls make them.
BRANCHES: tuple[Formulation, ...] = ("conditional", "unconditional")


class GuidedStep:
    r"""A step in which some guidances act, and what was predicted in it so far.

    Args:
        scales: $\gamma$ of each of them.
        observers: Who looks at the step; there may be some where no guidance acts.
        progress: The run that it is a step of.
        results: Who says what it comes to.
        altering: Who changes what the denoiser computes.

    Attributes:
        results: Those who say what it comes to.
        differences: $s - \tilde s$ of those whose negative is known.
        conditional: What the call with the prompt gave, where that without it is another call.
    """

    def __init__(
        self,
        scales: dict[ParticipantState, float],
        observers: Sequence[Observer] = (),
        progress: Progress | None = None,
        results: Sequence[ParticipantState] = (),
        altering: Sequence[ParticipantState] = (),
    ) -> None:
        self.scales = scales
        self.results = Results(results) if results else None
        self.altering = altering
        self.progress = Progress() if progress is None else progress
        self._watch = Watch(observers) if observers else None
        self.differences: dict[ParticipantState, Tensor] = {}
        self.conditional: Outcome | None = None

    @property
    def acts(self) -> bool:
        """Whether somebody may change what it comes to."""
        return bool(self.scales or self.results or self.altering)

    @property
    def corrects(self) -> bool:
        """Whether somebody changes what it comes to once it is predicted."""
        return bool(self.scales or self.results)

    def predict(
        self,
        runner: PassRunner,
        call: ModuleCall,
        layout: BatchLayout,
        context: StepContext,
        branches: Sequence[Formulation] = BRANCHES,
    ) -> Outcome:
        """One call of the denoiser, and the negatives of what it predicts.

        Args:
            runner: Runs the passes of the denoiser.
            call: The call.
            layout: The meaning of its rows.
            context: The step.
            branches: The predictions that are perturbed in this call.
        """
        if self.scales or self.altering:
            runner.check_caches()
        if self.results and "conditional" in branches:
            self.results.note(runner.sample(call), layout, context)
        asked, reusing = self._asked(runner, call, layout, context, branches)
        plans = {
            member.plan if member.planned_for is runner else member.plan_in(runner): member
            for member in asked
        }
        watch = self._watch
        watching: Sequence[Plan] = ()
        if watch is not None:
            perturbing = {member.participant: plan for plan, member in plans.items()}
            watching = watch.plans(runner, perturbing)

        def needs(plan: Plan, clean: Tensor) -> bool:
            member = plans[plan]
            return not member.history.holds(asked[member], context.position, clean)

        acting = self._acting(runner, call, layout, branches) if self.altering else {}
        altering = tuple(acting.values())
        outcome = runner.run(call, list(plans), layout, context, watching, needs, acting=altering)
        for member, one in acting.items():
            member.layers |= outcome.reached[one.plan]
        self.progress.note("clean", outcome.prediction)
        for plan, member in plans.items():
            if plan not in outcome.differences:
                reusing.append(member)
                continue
            difference = self.differences[member] = outcome.differences[plan]
            self.progress.note(member.history.guidance, difference)
            member.guided_calls += 1
            member.layers |= outcome.reached[plan]
            source = asked[member]
            member.history.keep(difference, source, context.position, outcome.clean[plan])
            member.history.note(functools.partial(outcome.similarity, plan))
        for member in reusing:
            self.differences[member] = member.history.use(context.position)
            member.reused_calls += 1
        if watch is not None:
            # Without CFG there is one prediction, with the prompt if there is one.
            predicted = BRANCHES if layout.groups > 1 else branches
            watch.note(runner, call, outcome, layout, predicted if layout.has_cfg else BRANCHES[:1])
        return outcome

    def _acting(
        self,
        runner: PassRunner,
        call: ModuleCall,
        layout: BatchLayout,
        branches: Sequence[Formulation],
    ) -> dict[ParticipantState, Acting]:
        """What changes this call, and in which rows.

        Raises:
            RuntimeError: If a text is needed, and nothing gives it.
        """
        batch = len(runner.sample(call))
        found: dict[ParticipantState, Acting] = {}
        for member in self.altering:
            plan = member.plan if member.planned_for is runner else member.plan_in(runner)
            alteration = plan.alteration
            assert alteration is not None
            rows = _rows_of_branch(alteration.branch, layout, branches, batch)
            if rows is None:
                continue
            text = alteration.text or member.participant.text
            if text is None and (alteration.reads_text or alteration.adds_rows):
                raise RuntimeError(
                    f"nothing encodes the negative prompt of {member.participant.guidance!r} here; "
                    "expected negative_embeds="
                )
            member.guided_calls += 1
            found[member] = Acting(plan, rows, text, member.memory)
        return found

    def _asked(
        self,
        runner: PassRunner,
        call: ModuleCall,
        layout: BatchLayout,
        context: StepContext,
        branches: Sequence[Formulation],
    ) -> tuple[dict[ParticipantState, Hashable], list[ParticipantState]]:
        """Who may need a negative prediction, and what it is made from; and who surely does not."""
        shape, has_cfg = runner.sample(call).shape, layout.has_cfg
        asked: dict[ParticipantState, Hashable] = {}
        reusing = []
        for member in self.scales:
            if member.formulation not in branches:
                continue
            # Without CFG there is one prediction, and both formulations mean it.
            branch = member.formulation if has_cfg else "conditional"
            made_from: Hashable = (runner, branch, shape[0] // layout.groups, shape[1:])
            history = member.history
            if not history.needs_clean and history.holds(made_from, context.position):
                reusing.append(member)
            else:
                asked[member] = made_from
        return asked, reusing

    def combine(
        self,
        predictions: Callable[[Formulation], Predictions],
        latent_layout: Callable[[], LatentLayout],
    ) -> Combined:
        r"""What the step comes to, without a learned variance.

        Args:
            predictions: What the step predicted, for the prediction that a guidance perturbs.
            latent_layout: How a prediction lies; asked only if that matters.
        """
        corrections = functools.partial(self._corrections, latent_layout)
        if self.results:
            return self.results.combined(predictions, latent_layout, corrections)
        return Combined(corrections(predictions))

    def _corrections(
        self,
        latent_layout: Callable[[], LatentLayout],
        predictions: Callable[[Formulation], Predictions],
    ) -> Tensor | None:
        r"""The sum $\delta$ of the corrections; None if there are none."""
        if not self.scales:
            return None
        corrections = []
        for member, scale in self.scales.items():
            delta = scale * self.differences[member]
            if len(self.scales) == 1 and not member.combinations:
                return delta
            found = predictions(member.formulation)
            corrections.append(Correction(delta, member.combinations, found))
        return total(corrections, latent_layout)

    def show(
        self,
        predictions: Callable[[Formulation], Predictions],
        delta: Tensor | None,
        latent_layout: Callable[[], LatentLayout],
        cfg_scale: float | None,
        context: StepContext,
    ) -> None:
        r"""Show the finished step to its observers, if it has any.

        Args:
            predictions: What the step predicted, as for `combine`.
            delta: Its correction; None if no guidance acts.
            latent_layout: How a prediction lies.
            cfg_scale: CFG's $g$, 1 where CFG is taken away, None if it is not known.
            context: The step.
        """
        watch = self._watch
        if watch is None or watch.sample is None:
            return
        found = predictions("conditional")
        guidances = [
            SeenGuidance(
                member.participant,
                scale,
                predictions(member.formulation).clean,
                self.differences[member],
            )
            for member, scale in self.scales.items()
        ]
        for observer, kept in watch.kept.items():
            observer.see(
                SeenStep(
                    context=context,
                    sample=watch.sample,
                    conditional=found.conditional,
                    unconditional=found.unconditional,
                    cfg_scale=cfg_scale,
                    guidances=guidances,
                    delta=delta,
                    latent_layout=latent_layout,
                    kept=kept,
                    evaluations=watch.evaluations,
                    started=watch.started,
                )
            )


def _rows_of_branch(
    branch: Formulation | None, layout: BatchLayout, branches: Sequence[Formulation], batch: int
) -> Rows | None:
    """The rows of a call that hold a prediction, all if None is asked for; None: it has none."""
    if branch is None:
        return Rows(0, batch, batch)
    if not layout.has_cfg:
        return Rows(0, batch, batch) if branch == "conditional" else None
    if layout.groups > 1:
        return layout.rows(branch, batch)
    return Rows(0, batch, batch) if branch in branches else None


class Progress:
    """How far a run is in its schedule, and how large became what it computes.

    Attributes:
        index: The number of the last step whose position mattered.
        members: The participants of the run in each of its denoisers.
        seen: The magnitudes of latents and predictions so far; see `check_finite`.
    """

    def __init__(self) -> None:
        self.index = 0
        self.members: list[Members] = []
        self.seen: list[Seen] = []

    def note(self, what: Seeable, tensor: Tensor, timestep: Tensor | float | None = None) -> None:
        """Note how large a tensor is, without waiting for its device; see `Seen`."""
        self.seen.append(Seen(what, tensor.detach().abs().amax(), timestep))

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
        observers: Who looks at its steps.

    Attributes:
        progress: How far the run is.
    """

    def __init__(
        self, progress: Progress | None = None, observers: Sequence[Observer] = ()
    ) -> None:
        self.observers = observers
        self._states: dict[Participant, ParticipantState] = {}
        self.progress = Progress() if progress is None else progress
        self.progress.members.append(self)

    def of(self, participant: Participant) -> ParticipantState:
        """The state of a participant."""
        state = self._states.get(participant)
        if state is None:
            state = self._states[participant] = ParticipantState(participant)
        return state

    def step(self, participants: Sequence[Participant], context: StepContext) -> GuidedStep:
        """A step, with those participants that correct it."""
        scales: dict[ParticipantState, float] = {}
        results, altering = [], []
        position = functools.partial(self._position, context)
        for participant in participants:
            state = self.of(participant)
            if state.is_off or state.rule is not None:
                continue
            if state.result is not None:
                if state.result.acts_at(position):
                    results.append(state)
                continue
            if state.alters:
                if state.acts_at(position):
                    altering.append(state)
                continue
            scale = state.history.scale(position)
            if scale:
                scales[state] = scale
        return GuidedStep(scales, self.observers, self.progress, results, altering)

    def _position(self, context: StepContext) -> StepPosition:
        here = context.position()
        self.progress.reach(here.index)
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
        self.progress.index = 0
        for state in self._states.values():
            state.forget()
