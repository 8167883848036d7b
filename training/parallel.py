"""Data parallelism over processes on one machine, through shared memory.

The threads of one process wait for each other in every operation, so that anything else which runs
on one of the cores stops them all, thousands of times a second. Processes of one thread each wait
for each other once a step. Each takes its rows of the batch, and all step with the mean of the
gradients, so that their weights stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Exchange", "Team"]


class Team:
    """What the processes share: a gradient buffer for each, and a barrier.

    Args:
        size: Number of processes.
        numbers: Length of the flat gradient.
    """

    def __init__(self, size: int, numbers: int) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self.size = size
        self.buffers = [torch.zeros(numbers).share_memory_() for _ in range(size)]
        self.shared = torch.zeros(1, dtype=torch.float64).share_memory_()
        self.barrier: Any = context.Barrier(size)


class Exchange:
    """One process's end of a team, which averages gradients.

    Args:
        team: What is shared.
        rank: Which process this is.
    """

    def __init__(self, team: Team, rank: int) -> None:
        self.team, self.rank = team, rank

    def rows(self, count: int) -> slice:
        """This process's rows of a batch."""
        if count % self.team.size:
            raise ValueError(f"a batch of {count} cannot be shared by {self.team.size} processes")
        share = count // self.team.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def agree(self, value: float) -> float:
        """The first process's value, in all processes."""
        if self.rank == 0:
            self.team.shared[0] = value
        self.team.barrier.wait()
        agreed = float(self.team.shared[0])
        self.team.barrier.wait()
        return agreed

    @torch.no_grad()
    def average(self, parameters: Sequence[Tensor]) -> None:
        """Replaces the gradients by their mean over all processes.

        Raises:
            threading.BrokenBarrierError: If another process has ended.
        """
        gradients = [p.grad for p in parameters]
        torch._foreach_copy_(_views(self.team.buffers[self.rank], parameters), gradients)
        self.team.barrier.wait()
        # The same order of summation everywhere, so that the sums are equal to the last bit.
        total = self.team.buffers[0].clone()
        for buffer in self.team.buffers[1:]:
            total += buffer
        total /= self.team.size
        torch._foreach_copy_(gradients, _views(total, parameters))
        self.team.barrier.wait()  # Nobody writes the next gradient before all have read this one.


def _views(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Pieces of a flat buffer with the parameters' shapes."""
    pieces = flat.split([p.numel() for p in parameters])
    return [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]
