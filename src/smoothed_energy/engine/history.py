"""What a guidance remembers of the steps of a run that came before."""

from __future__ import annotations

__all__ = ["History"]

from collections.abc import Callable, Hashable
from dataclasses import replace

from torch import Tensor

from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.plan import Memory
from ..schedule import StepPosition


class History:
    r"""The last difference of predictions of a guidance, and how alike its predictions became.

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
        self.memory: Memory = {}
        self.forget()

    def forget(self) -> None:
        """Be as before the first step: other images begin."""
        self._difference: Tensor | None = None
        self._made_from: Hashable = None
        self._uses = 0
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

    def holds(self, made_from: Hashable = None) -> bool:
        """Whether the last difference of predictions is to be used again.

        Args:
            made_from: What a difference would be made from now. A callback may have changed the
                batch, or turned CFG off.
        """
        return (
            self._difference is not None
            and self._uses < self.guidance.every
            and self._made_from == made_from
        )

    def use(self) -> Tensor:
        r"""The last difference of predictions, $s - \tilde s$, used once more."""
        assert self._difference is not None
        self._uses += 1
        return self._difference

    def keep(self, difference: Tensor, made_from: Hashable = None) -> None:
        r"""Remember the difference of predictions of this step, if later ones use it again.

        Args:
            difference: $s - \tilde s$.
            made_from: What it was made from, as far as that may change in a run.
        """
        if self.guidance.every > 1:
            self._difference, self._made_from, self._uses = difference, made_from, 1

    def note(self, similarity: Callable[[], float]) -> None:
        """Remember how alike the predictions of this step were, if it decides about later ones.

        Args:
            similarity: The cosine of the clean and the perturbed prediction.
        """
        if self._needs_similarity:
            highest = -1.0 if self._similarity is None else self._similarity
            self._similarity = max(highest, similarity())
