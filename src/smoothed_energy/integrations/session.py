"""What is attached to one target."""

from __future__ import annotations

__all__ = ["Session"]

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from .loop_step import LoopStep

if TYPE_CHECKING:
    from .attachment import Attachment


class Session(ABC):
    """The attachments of one target."""

    target_name: str

    def __init__(self) -> None:
        self.attachments: list[Attachment] = []

    def add(self, attachment: Attachment) -> None:
        """Let `attachment` act."""
        if not self.attachments:
            self._open()
        self.attachments.append(attachment)

    def remove(self, attachment: Attachment) -> None:
        """End what `attachment` does."""
        self.attachments.remove(attachment)
        if not self.attachments:
            self._close()

    @abstractmethod
    def warn_if_idle(self, attachment: Attachment) -> None:
        """Warn if a run that only detaching ends was not guided."""

    def set_step(self, step: LoopStep) -> None:
        """See `Attachment.step`."""
        raise TypeError(
            "step() is for guidance on a bare denoiser; "
            f"a {self.target_name} knows its steps and rows itself"
        )

    @abstractmethod
    def _open(self) -> None:
        """Put in place what the first attachment needs."""

    @abstractmethod
    def _close(self) -> None:
        """Take away what `_open` put in place."""
