"""What is attached to a guider: observers of its steps."""

from __future__ import annotations

__all__ = ["GuiderSession"]

from collections.abc import Sequence

from typing_extensions import override

from ...engine.participant import Participant
from ...guidance import Guidance
from ...guidance.beside import check_beside
from ..attachment import Attachment, Session
from .step_batches import StepBatches


class GuiderSession(Session):
    """The observers of a guider. Its guidances are settings of its own."""

    target_name = "SmoothedEnergyGuider"

    def begin(self, guidances: Sequence[Guidance]) -> StepBatches:
        """The batches of a run, which begins: its observers are told."""
        check_beside(guidances)
        for observer in self.observers:
            observer.begin()
        participants = [Participant(guidance) for guidance in guidances]
        return StepBatches(participants, self.observers)

    @override
    def renewed(self) -> Session:
        return self

    @override
    def conclude(self, attachment: Attachment) -> None:
        pass  # A guider warns of its runs itself.

    @override
    def _open(self) -> None:
        pass  # A guider prepares the denoiser by itself, call by call.

    @override
    def _close(self) -> None:
        pass
