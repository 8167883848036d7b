"""What is still to be drawn in a run: the missing rows, those to be tried again, and failures.

Missing rows are kept as numbers (4 bytes each), and ids are computed when a unit is handed out.
"""

from __future__ import annotations

__all__ = ["ATTEMPTS", "Failure", "Todo"]

from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .plan import Plan, Row
from .work import Outcome, Trouble, Unit

#: How often a row is tried in a run.
ATTEMPTS = 3
#: So many units of a configuration may fail before the first of its pictures.
_HOPES = 5


@dataclass(frozen=True)
class Failure:
    """A row that was tried in vain.

    Args:
        row: The row.
        reason: What went wrong the last time.
        attempts: How often it was tried.
    """

    row: Row
    reason: str
    attempts: int


class Todo:
    """The rows that a run has to draw, in units of one configuration.

    Units that failed are tried again after all others, a row at a time, so that one picture that
    can't be drawn takes no other with it.

    Args:
        plan: The plan.
        missing: The numbers of the rows that are not there, in order.
        unit_size: The most rows of a unit.
    """

    def __init__(self, plan: Plan, missing: Iterable[int], unit_size: int) -> None:
        self._plan = plan
        self._missing = array("I", missing)
        self._unit_size = unit_size
        self._next = 0
        self._again: deque[int] = deque()
        self._attempts: Counter[int] = Counter()
        self._reasons: dict[int, str] = {}
        self._given_up: dict[int, str] = {}
        self._succeeded: set[int] = set()
        self._failed_units: Counter[int] = Counter()
        self._all_reason: str | None = None
        self.total = len(self._missing)

    @property
    def has_more(self) -> bool:
        """Whether there may be something to hand out."""
        return self._all_reason is None and (self._next < len(self._missing) or bool(self._again))

    def take(self) -> Unit | None:
        """The next unit, None if there is none at the moment."""
        if self._all_reason is not None:
            return None
        while self._next < len(self._missing):
            first = self._missing[self._next]
            configuration = first // self._plan.pictures_each
            end = (configuration + 1) * self._plan.pictures_each
            stop = self._next
            while (
                stop < len(self._missing)
                and stop < self._next + self._unit_size
                and self._missing[stop] < end
            ):
                stop += 1
            indices = self._missing[self._next : stop]
            self._next = stop
            if not self._is_given_up(configuration, indices):
                return self._unit(configuration, indices)
        while self._again:
            index = self._again.popleft()
            configuration = index // self._plan.pictures_each
            if not self._is_given_up(configuration, [index]):
                return self._unit(configuration, [index])
        return None

    def report(self, unit: Unit, outcome: Outcome) -> None:
        """Note what came out of a unit."""
        number = unit.configuration.index
        if outcome.drawn or outcome.found:
            self._succeeded.add(number)
        if outcome.trouble is None:
            for row in unit.rows:
                self._reasons.pop(row.index, None)
            return
        if outcome.trouble is Trouble.HOPELESS:
            self._given_up[number] = outcome.reason
        elif outcome.trouble is Trouble.DISK_FULL:
            self.stop(outcome.reason)
        drawn = {*outcome.drawn}
        self._fail([row.index for row in unit.rows if row.id not in drawn], outcome.reason)
        self._failed_units[number] += 1
        if number not in self._succeeded and self._failed_units[number] >= _HOPES:
            self._given_up.setdefault(number, outcome.reason)

    def stop(self, reason: str) -> None:
        """Hand out nothing more."""
        self._all_reason = reason

    @property
    def stopped(self) -> str | None:
        """Why nothing more is handed out, if that was decided."""
        return self._all_reason

    def failures(self) -> Iterator[Failure]:
        """The rows that were tried in vain, in order.

        A row whose picture was written by a worker that then died may be among them: the folder
        tells.
        """
        for index in sorted(self._reasons):
            yield Failure(self._plan.row(index), self._reasons[index], self._attempts[index])

    def _unit(self, configuration: int, indices: Iterable[int]) -> Unit:
        return Unit(
            self._plan.configurations[configuration], tuple([self._plan.row(i) for i in indices])
        )

    def _is_given_up(self, configuration: int, indices: Iterable[int]) -> bool:
        reason = self._given_up.get(configuration)
        if reason is None:
            return False
        self._reasons.update(dict.fromkeys(indices, reason))
        return True

    def _fail(self, indices: Iterable[int], reason: str) -> None:
        for index in indices:
            self._attempts[index] += 1
            self._reasons[index] = reason
            if self._attempts[index] < ATTEMPTS:
                self._again.append(index)
