"""What the engine asks of whoever calls a denoiser."""

from __future__ import annotations

__all__ = ["StepContext"]

from abc import ABC, abstractmethod

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.prediction import OutputKind
from ..schedule import StepPosition


class StepContext(ABC):
    """The step in which a denoiser is called. Each question is asked only if it matters."""

    @abstractmethod
    def position(self) -> StepPosition:
        """Where the step is in its schedule."""

    @abstractmethod
    def layout(self, rows: int) -> BatchLayout:
        """The meaning of the rows of a batch."""

    @abstractmethod
    def output_kind(self) -> OutputKind:
        """What the denoiser predicts."""

    def rescales(self) -> bool:
        """Whether the guided prediction is rescaled by the statistics of the conditional one."""
        return False

    def next_noise(self) -> float:
        """The noise level after this step, if that is deterministic and of first order.

        Raises:
            ValueError: If it is not, or not known; the message says why.
        """
        raise ValueError("it is not known here")
