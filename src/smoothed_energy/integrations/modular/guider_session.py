"""What is attached to a guider: observers of its steps."""

from __future__ import annotations

__all__ = ["GuiderSession"]

from typing_extensions import override

from ..attachment import Attachment, Session


class GuiderSession(Session):
    """The observers of a guider. Its guidances are settings of its own."""

    target_name = "SmoothedEnergyGuider"

    @override
    def warn_if_idle(self, attachment: Attachment) -> None:
        pass  # A guider warns of its runs itself.

    @override
    def _open(self) -> None:
        pass  # A guider prepares the denoiser by itself, call by call.

    @override
    def _close(self) -> None:
        pass
