"""A guidance that takes part in a run, and what it does and remembers in one denoiser."""

from __future__ import annotations

__all__ = ["History", "Participant", "ParticipantState", "note_call"]

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..denoisers.cfg_batch import Formulation, RowChoice
from ..families import family_or_unknown
from ..guidance.cfg_rules.rule import CFGRule
from ..guidance.combine import Combination
from ..guidance.guidance import Guidance
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.pass_guidance import PassGuidance
from ..guidance.plan import Memory, Plan
from ..guidance.result_guidance import ResultGuidance
from ..intercept.module_call import modules_of
from ..schedule import ALL_STEPS_ANEW, Since, StepPosition
from .joined import check_joins, join_plan
from .passes import PassRunner
from .summary import RunSummary

_Plans = WeakKeyDictionary[nn.Module, tuple[Plan, list[nn.Module]]]


class Participant:
    """A guidance that takes part in runs.

    Args:
        guidance: The guidance.
        replay: Whether its perturbed passes take over what they can from the clean one.
        rows: Which rows of the batch its passes have.
        guide_unknown: Whether a denoiser that no family knows is looked at when it is first called.
        joined: Whether the rows that it perturbs run in the call of the clean pass.

    Raises:
        ValueError: If `rows` is not known, or the rows can't join.
    """

    def __init__(
        self,
        guidance: Guidance,
        replay: bool = True,
        rows: RowChoice = "needed",
        guide_unknown: bool = False,
        joined: bool = False,
    ) -> None:
        if rows not in get_args(RowChoice):
            raise ValueError(f"rows={rows!r}: expected {' or '.join(get_args(RowChoice))}")
        if joined:
            check_joins(guidance, rows)
        self.guidance, self.replay, self.joined = guidance, replay, joined
        self.rows = rows
        self.guide_unknown = guide_unknown
        #: What the denoiser is given for its own prompt, by the names of arguments, in this run.
        self.text: dict[str, Any] | None = None
        # Each plan with the modules in the denoiser for which it was made.
        self._plans = _Plans()

    def __getstate__(self) -> dict[str, Any]:
        # Plans are of the denoisers of this process.
        return vars(self) | {"_plans": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _plans=_Plans())

    def anew(self) -> Participant:
        """One with the same settings, and nothing of what this one found out."""
        return Participant(self.guidance, self.replay, self.rows, self.guide_unknown, self.joined)

    def check(self, denoiser: nn.Module) -> Plan | None:
        """What the guidance does in a denoiser; None if it has no plan, or a call has to tell.

        Raises:
            LayerError: If the denoiser has no such layers.
        """
        if self.guide_unknown and family_or_unknown(denoiser).is_unknown:
            return None  # its first call tells
        if not isinstance(self.guidance, (NegativeGuidance, PassGuidance)):
            return None
        return self.plan_for(denoiser)

    @property
    def looks_for_layers(self) -> bool:
        """Whether the layers of a denoiser of no known class are to be found for it."""
        return self.guide_unknown and hasattr(self.guidance, "layers")

    def plan_for(self, denoiser: nn.Module) -> Plan:
        """What the guidance does in a denoiser: found out once, and again if its modules changed.

        Raises:
            LayerError: If the denoiser has no such layers.
        """
        modules = modules_of(denoiser)[1:]
        plan, made_for = self._plans.get(denoiser, (None, []))
        if plan is None or modules != made_for:
            guidance = cast("NegativeGuidance | PassGuidance", self.guidance)
            plan = guidance.plan(denoiser, replay=self.replay)
            plan = join_plan(guidance, plan, denoiser) if self.joined else plan
            self._plans[denoiser] = plan, modules
        return plan


@dataclass(frozen=True)
class _Made:
    r"""A difference of predictions as a second pass made it.

    Args:
        difference: $s - \tilde s$.
        coordinate: Where in the run; differences go on along it.
        clean: $s$, if later steps are compared with it.
    """

    difference: Tensor
    coordinate: float
    clean: Tensor | None


class History:
    r"""The last differences of predictions of a guidance, and how alike its predictions became.

    Args:
        guidance: The guidance.

    Attributes:
        memory: What its plan keeps from step to step.
    """

    def __init__(self, guidance: NegativeGuidance) -> None:
        self.guidance = guidance
        # The guidance does not change, and what it says of itself may take a while.
        self._is_off = guidance.is_off
        self._scale = guidance.scale if guidance.is_uniform else None
        self._needs_similarity = guidance.needs_similarity
        self._refresh = guidance.second_passes
        self._keeps = self._refresh != ALL_STEPS_ANEW
        self.memory: Memory = {}
        self.forget()

    def forget(self) -> None:
        """Be as before the first step: other images begin."""
        self._made: list[_Made] = []
        self._made_from: Hashable = None
        self._passes = self._steps = 0
        self._similarity: float | None = None
        self.memory.clear()

    def scale(self, position: Callable[[], StepPosition]) -> float:
        r"""$\gamma$ of a step; 0 if it is not guided.

        Args:
            position: Where the step is in its schedule, asked only if it matters: guidance that is
                alike at all steps works with schedules that can't tell where they are.
        """
        if self._is_off:
            return 0.0
        if isinstance(self._scale, float):
            return self._scale
        here = position()
        if self._similarity is not None:
            here = replace(here, similarity=self._similarity)
        return self.guidance.scale_at(here)

    @property
    def needs_clean(self) -> bool:
        """Whether `holds` can be asked only once the clean prediction is known."""
        return self._keeps and self._refresh.needs_clean

    def holds(
        self,
        made_from: Hashable = None,
        position: Callable[[], StepPosition] | None = None,
        clean: Tensor | None = None,
    ) -> bool:
        """Whether there is no second pass at a step, since earlier ones tell enough.

        Args:
            made_from: What a difference would be made from now. A callback may have changed the
                batch, or turned CFG off.
            position: Where the step is in its schedule.
            clean: $s$, for those that need it.
        """
        if not self._made or self._made_from != made_from:
            return False

        def drift() -> float:
            assert clean is not None
            return _distance(clean, self._made[-1].clean)

        since = Since(self._passes, self._steps, drift)
        return not self._refresh.due(position or _unknown, since)

    def use(self, position: Callable[[], StepPosition] | None = None) -> Tensor:
        r"""What stands for $s - \tilde s$ at a step without a second pass."""
        self._steps += 1
        last = self._made[-1]
        share = self._refresh.extrapolate
        if not share or len(self._made) < 2 or position is None:
            return last.difference
        first = self._made[0]
        way = (_coordinate(position()) - last.coordinate) / (last.coordinate - first.coordinate)
        return last.difference + share * way * (last.difference - first.difference)

    def keep(
        self,
        difference: Tensor,
        made_from: Hashable = None,
        position: Callable[[], StepPosition] | None = None,
        clean: Tensor | None = None,
    ) -> None:
        r"""Remember the difference of predictions of this step, if later ones use it again.

        Args:
            difference: $s - \tilde s$.
            made_from: What it was made from, as far as that may change in a run.
            position: Where the step is in its schedule.
            clean: $s$.
        """
        if not self._keeps:
            return
        if self._made_from != made_from:
            self._made.clear()
        coordinate, earlier = 0.0, []
        if self._refresh.extrapolate and position is not None:
            coordinate = _coordinate(position())
            # A step that is called twice (Heun) has one place; the later difference stands for it.
            earlier = [made for made in self._made[-1:] if made.coordinate < coordinate]
        clean = clean if self._refresh.needs_clean else None
        self._made = [*earlier, _Made(difference, coordinate, clean)]
        self._made_from = made_from
        self._passes, self._steps = self._passes + 1, 1

    def note(self, similarity: Callable[[], float]) -> None:
        """Remember how alike the predictions of this step were, if it decides about later ones.

        Args:
            similarity: The cosine of the clean and the perturbed prediction.
        """
        if self._needs_similarity:
            highest = -1.0 if self._similarity is None else self._similarity
            self._similarity = max(highest, similarity())


class ParticipantState:
    """What one participant does and remembers in one denoiser.

    Args:
        participant: The participant.

    Attributes:
        rule: Its rule for where CFG acts, if it has one.
        result: It, if it says what a step comes to; without either it makes a correction.
        alters: Whether it changes passes that are made anyway.
        memory: What it keeps from step to step, if it makes no correction.
        history: What it remembers of earlier steps, if it makes a correction.
        formulation: Which prediction it perturbs.
        combinations: What changes its correction before it is added.
        plan: What it does in the denoiser, once it was planned.
        planned_for: Runs the passes of the denoiser that it was planned for.
        calls: How often the denoiser was called.
        guided_calls: How many of these calls were guided.
        reused_calls: How many of these calls used an earlier difference of predictions.
        calls_without_cfg: In how many of these calls CFG was taken away.
        layers: The names of the layers that were reached.
    """

    def __init__(self, participant: Participant) -> None:
        self.participant = participant
        guidance = participant.guidance
        self.is_off = guidance.is_off
        self.rule = guidance if isinstance(guidance, CFGRule) else None
        self.result = guidance if isinstance(guidance, ResultGuidance) else None
        self.memory: Memory = {}
        self.alters = isinstance(guidance, PassGuidance)
        if isinstance(guidance, NegativeGuidance):
            self.alters = guidance.is_within
            self.history = History(guidance)
            self.formulation = cast(Formulation, guidance.formulation)
            self.combinations = cast("tuple[Combination, ...]", guidance.combine)
        self.calls = self.guided_calls = self.reused_calls = self.calls_without_cfg = 0
        self.layers: set[str] = set()
        self.plan = Plan()
        self.planned_for: PassRunner | None = None
        self._names: dict[str, nn.Module] = {}

    @property
    def makes_correction(self) -> bool:
        """Whether it has a negative."""
        return self.rule is None and self.result is None and not self.alters

    def acts_at(self, position: Callable[[], StepPosition]) -> bool:
        """Whether it changes the passes of a step.

        Args:
            position: Where the step is in its schedule; asked only if it matters.
        """
        guidance = self.participant.guidance
        if isinstance(guidance, PassGuidance):
            return guidance.acts_at(position)
        return self.history.scale(position) != 0

    def plan_in(self, runner: PassRunner) -> Plan:
        """Plan what the guidance does in a denoiser.

        Raises:
            LayerError: If the denoiser has no such layers.
            RuntimeError: If the denoiser has caches with which the guidance would come out wrong.
        """
        plan = self.participant.plan_for(runner.denoiser)
        if runner.caches is not None:
            runner.caches.check_plan(plan)
            # A replayed block would be one that the cache never saw.
            plan = replace(plan, replay=False)
        if plan.remembers:
            plan = replace(plan, memory=self.history.memory)
        if self.participant.rows != plan.rows:
            plan = replace(plan, rows=self.participant.rows)
        self.plan, self.planned_for, self._names = plan, runner, {}
        return plan

    def forget(self) -> None:
        """Forget what earlier steps were like: other images begin."""
        self.memory.clear()
        if self.makes_correction:
            self.history.forget()

    def find_layers_again(self) -> None:
        """Plan anew when it is next needed, if modules of the plan were replaced since."""
        plan, runner = self.plan, self.planned_for
        if runner is None:
            return
        modules = {*plan.edits, *plan.probed}
        if not modules:
            return
        if not self._names:
            found = runner.model.named_modules()
            self._names = {name: module for name, module in found if module in modules}
        try:
            there = [
                runner.model.get_submodule(name) is module for name, module in self._names.items()
            ]
        except AttributeError:
            there = []
        if there.count(True) < len(modules):
            runner.forget(plan)
            self.planned_for = None

    def summary(self) -> RunSummary:
        """What it did so far."""
        return RunSummary(
            self.calls,
            self.guided_calls,
            frozenset(self.layers),
            self.reused_calls,
            self.calls_without_cfg,
        )


def note_call(
    states: Iterable[ParticipantState], limiting: Sequence[ParticipantState], *, has_cfg: bool
) -> None:
    """Count a call of a denoiser for those whom a guider or a sampler asks once a step.

    Args:
        states: Who takes part.
        limiting: Those that take CFG away at this step.
        has_cfg: Whether there is a sum for a rule to take the place of.
    """
    for state in states:
        state.calls += 1
        if state in limiting:
            state.calls_without_cfg += 1
        elif state.rule is not None and has_cfg:
            state.guided_calls += 1


def _unknown() -> StepPosition:
    raise RuntimeError("where this step is in its schedule is not known")


def _coordinate(position: StepPosition) -> float:
    r"""$-\log\sigma$, or the step's index where no noise level is known."""
    if position.sigma is None:
        return float(position.index)
    # Beyond these there is only noise, and only picture.
    return -math.log(min(max(position.sigma, 2e-3), 80.0))


def _distance(clean: Tensor, before: Tensor | None) -> float:
    """How far a prediction has moved, relative to its norm: of the sample that moved most."""
    assert before is not None
    old, new = before.float().flatten(1), clean.float().flatten(1)
    return float(((new - old).norm(dim=1) / old.norm(dim=1)).max())
