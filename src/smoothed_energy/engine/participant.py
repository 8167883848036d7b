"""A guidance that takes part in a run, and what it does and remembers in one denoiser."""

from __future__ import annotations

__all__ = ["Participant", "ParticipantState"]

from dataclasses import replace
from typing import Any, cast, get_args
from weakref import WeakKeyDictionary

from torch import nn

from ..denoisers.cfg_batch import RowChoice
from ..guidance.cfg_rules.rule import CFGRule
from ..guidance.combine import Combination
from ..guidance.guidance import Guidance
from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.plan import Plan
from .history import History
from .passes import PassRunner
from .summary import RunSummary

_Plans = WeakKeyDictionary[nn.Module, tuple[Plan, list[nn.Module]]]


class Participant:
    """A guidance that takes part in runs.

    Args:
        guidance: The guidance.
        replay: Whether its perturbed passes take over what they can from the clean one.
        rows: Which rows of the batch its passes have.

    Raises:
        ValueError: If `rows` is not known.
    """

    def __init__(self, guidance: Guidance, replay: bool = True, rows: RowChoice = "needed") -> None:
        if rows not in get_args(RowChoice):
            raise ValueError(f"rows={rows!r}: expected {' or '.join(get_args(RowChoice))}")
        self.guidance = guidance
        self.replay = replay
        self.rows = rows
        # Each plan with the modules in the denoiser for which it was made.
        self._plans = _Plans()

    def __getstate__(self) -> dict[str, Any]:
        # Plans are of the denoisers of this process.
        return vars(self) | {"_plans": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _plans=_Plans())

    def check(self, denoiser: nn.Module) -> None:
        """Check that the guidance can act in a denoiser.

        Raises:
            LayerError: If the denoiser has no such layers.
        """
        if isinstance(self.guidance, NegativeGuidance):
            self.plan_for(denoiser)

    def plan_for(self, denoiser: nn.Module) -> Plan:
        """What the guidance does in a denoiser: found out once, and again if its modules changed.

        Raises:
            LayerError: If the denoiser has no such layers.
        """
        modules = _modules_inside(denoiser)
        plan, made_for = self._plans.get(denoiser, (None, []))
        if plan is None or modules != made_for:
            guidance = cast(NegativeGuidance, self.guidance)
            plan = guidance.plan(denoiser, replay=self.replay)
            self._plans[denoiser] = plan, modules
        return plan


class ParticipantState:
    """What one participant does and remembers in one denoiser.

    Args:
        participant: The participant.

    Attributes:
        rule: Its rule for CFG, if it has one; otherwise it makes a correction.
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
        if isinstance(guidance, NegativeGuidance):
            self.history = History(guidance)
            self.formulation = guidance.formulation
            self.combinations = cast("tuple[Combination, ...]", guidance.combine)
        self.calls = self.guided_calls = self.reused_calls = self.calls_without_cfg = 0
        self.layers: set[str] = set()
        self.plan = Plan()
        self.planned_for: PassRunner | None = None
        self._names: dict[str, nn.Module] = {}

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


def _modules_inside(denoiser: nn.Module) -> list[nn.Module]:
    """All modules inside a denoiser: in a seventh of the time of `modules()`, which recurses."""
    found, seen = [denoiser], {denoiser}
    for module in found:
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    return found[1:]
