"""The participants of a run in one denoiser, and who of them acts at a step."""

from __future__ import annotations

__all__ = ["Members", "Progress"]

import functools
from collections.abc import Sequence

from ..schedule import StepPosition
from .context import StepContext
from .observer import Observer
from .participant import Participant, ParticipantState
from .step import GuidedStep


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
        observers: Who looks at its steps.
    """

    def __init__(
        self, progress: Progress | None = None, observers: Sequence[Observer] = ()
    ) -> None:
        self.observers = observers
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
        return GuidedStep(scales, self.observers)

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
