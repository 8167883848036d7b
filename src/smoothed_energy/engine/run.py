"""Runs: the calls of their denoisers, from first to last."""

from __future__ import annotations

__all__ = ["GuidedRun"]

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..intercept.module_call import ModuleCall
from .context import StepContext
from .denoiser_state import DenoiserState
from .members import Progress
from .observer import Observer
from .participant import Participant
from .summary import RunSummary


class GuidedRun:
    """The calls of the denoisers of a run, from first to last, and what happened in them.

    A plan belongs to one denoiser, and so does all that is remembered from one call to the next.

    Args:
        denoisers: The denoisers, compiled or not.
        observers: Who looks at its steps; the list may change in mid-run.
    """

    def __init__(self, *denoisers: nn.Module, observers: Sequence[Observer] = ()) -> None:
        progress = Progress()
        self._observers = observers
        self.states = {
            denoiser: DenoiserState(denoiser, progress, observers) for denoiser in denoisers
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

    def summary(self, participant: Participant) -> RunSummary:
        """What a participant did so far."""
        first, *others = [state.of(participant).summary() for state in self.states.values()]
        return sum(others, first)
