"""Batches made ahead, in threads, while a GPU computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["Ahead"]


class Ahead:
    """A function of a step and a size, whose answers for the next steps are made in threads.

    Args:
        batch: The function; its answer depends on its arguments alone.
        threads: How many work.
        steps: How many answers are made ahead.
    """

    def __init__(
        self, batch: Callable[[int, int], Any], *, threads: int = 4, steps: int = 8
    ) -> None:
        self._batch, self._steps = batch, steps
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batch")
        self._made: deque[tuple[int, int, Future[Any]]] = deque()

    def __call__(self, step: int, size: int) -> Any:
        """What `batch(step, size)` gives; asked for in the order of the steps, it is there already.

        Raises:
            Exception: Whatever `batch` raises for it.
        """
        if not self._made or self._made[0][:2] != (step, size):
            for _, _, unwanted in self._made:
                unwanted.cancel()
            self._made.clear()
        first = self._made[-1][0] + 1 if self._made else step
        for later in range(first, step + self._steps):
            self._made.append((later, size, self._pool.submit(self._batch, later, size)))
        return self._made.popleft()[2].result()
