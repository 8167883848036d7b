"""What the observers of a step are to see of it, collected call by call."""

from __future__ import annotations

__all__ = ["Watch"]

import time
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..denoisers.cfg_batch import BatchLayout, Formulation
from ..guidance.plan import Plan
from ..intercept.module_call import ModuleCall
from .observer import Observer
from .one_pass import Outcome
from .participant import Participant
from .passes import PassRunner


class Watch:
    """What the observers of a step are to see of it, collected call by call.

    Args:
        observers: The observers.

    Attributes:
        started: When the step began, by `time.perf_counter`.
        evaluations: How often the denoiser ran so far, whole or in part, for each sample.
        sample: The noisy latents of the conditional rows, once they are known.
        kept: For each observer, its plan and what its probe kept of each layer, by branch.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.started = time.perf_counter()
        self.evaluations = 0.0
        self.sample: Tensor | None = None
        self.kept: dict[Observer, dict[Formulation, tuple[Plan, dict[str, Tensor]]]] = {
            observer: {} for observer in observers
        }
        self._plans: dict[Observer, Plan] = {}

    def plans(self, runner: PassRunner, perturbing: Mapping[Participant, Plan]) -> Sequence[Plan]:
        """What the observers probe in the next clean pass; see `Observer.plan`."""
        self._plans = {observer: observer.plan(runner, perturbing) for observer in self.kept}
        return tuple(self._plans.values())

    def note(
        self,
        runner: PassRunner,
        call: ModuleCall,
        outcome: Outcome,
        layout: BatchLayout,
        branches: Sequence[Formulation],
    ) -> None:
        """Take in what one call of the denoiser gave.

        Args:
            runner: Runs the passes of the denoiser.
            call: The call.
            outcome: What it gave.
            layout: The meaning of its rows.
            branches: The predictions that it made.
        """
        sample = runner.sample(call)
        batch = len(sample)
        samples = batch // layout.groups
        # A negative prediction is for the rows of one branch.
        self.evaluations += batch / samples + sum(outcome.runs.values())
        for branch in branches:
            rows = layout.rows(branch, batch)
            if branch == "conditional":
                self.sample = rows.of(sample)[:, : outcome.channels]
            for observer, plan in self._plans.items():
                observed = outcome.observed[plan].items()
                kept = {layer: rows.of(value) for layer, value in observed}
                self.kept[observer][branch] = plan, kept
