"""Schedules by the clock: the share of the time budget that is spent decides the rate.

Throughput on a shared machine is unpredictable, so a schedule in steps would either not finish or
waste time. Time counts only while a process trains: a resumed run goes on where it stopped.
"""

from __future__ import annotations

import time

__all__ = ["Clock", "cosine_rate", "trapezoid_rate"]


class Clock:
    """Seconds of training so far, over all resumed runs, and the share of the budget.

    Args:
        budget: Seconds of training in all.
        elapsed: Seconds that earlier runs spent.
    """

    def __init__(self, budget: float, elapsed: float = 0.0) -> None:
        self.budget = budget
        self._start = time.monotonic() - elapsed

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return time.monotonic() - self._start

    @property
    def fraction(self) -> float:
        """Elapsed share of the budget, at most 1."""
        return min(self.elapsed / self.budget, 1.0)


def cosine_rate(fraction: float, step: int, *, warmup: int = 100, floor: float = 0.02) -> float:
    """Warm-up over steps, then a cosine over the time budget; a factor in ``[0, 1]``."""
    import math

    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction))
    return min(1.0, (step + 1) / warmup) * cosine


def trapezoid_rate(fraction: float, step: int, *, decay: float = 0.25, warmup: int = 300) -> float:
    """Warm-up over steps, constant, then linear to zero in the last ``decay`` of the budget.

    A run with this schedule can be extended: resume from before the decay with more time.
    """
    return min(1.0, (step + 1) / warmup) * min(1.0, (1.0 - fraction) / decay)
