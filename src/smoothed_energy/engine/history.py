"""What a guidance remembers from one step of a run to the next."""

from __future__ import annotations

__all__ = ["History"]

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from torch import Tensor

from ..guidance.negative_guidance import NegativeGuidance
from ..guidance.plan import Memory
from ..schedule import EveryStep, Since, StepPosition


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
        self._keeps = self._refresh != EveryStep()
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
        follows = self._refresh.extrapolate > 0 and position is not None
        coordinate = _coordinate(position()) if follows and position is not None else 0.0
        # A step that is called twice (Heun) has one place; the later difference stands for it.
        kept = [made for made in self._made[-1:] if follows and made.coordinate < coordinate]
        clean = clean if self._refresh.needs_clean else None
        self._made = [*kept, _Made(difference, coordinate, clean)]
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
