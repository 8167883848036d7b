"""Sums of a kernel over pairs of features, block by block, so that memory stays bounded."""

from __future__ import annotations

__all__ = ["Kernel", "KernelSums", "check_pair"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

#: A kernel between the rows of two matrices, ``(N, D)`` and ``(M, D)`` to ``(N, M)``.
Kernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]

#: Entries of a block: 64 MiB of float64.
_BLOCK = 1 << 23

#: Up to so many samples the kernel between all pairs of them is kept for subsets: 512 MiB.
_KEPT = 8192


def check_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of features in float64.

    Raises:
        ValueError: If either has fewer than two vectors, or the dimensions differ.
    """
    for features in (first, second):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features have shape {tuple(features.shape)}; expected (N >= 2, D)")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of {first.shape[1]} and {second.shape[1]} dimensions")
    return first.double(), second.double()


def _row_sums(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Sums of the kernel of each row of ``x`` over all rows of ``y``, ``(N,)``."""
    rows = max(_BLOCK // len(y), 1)
    return torch.cat([kernel(part, y).sum(1) for part in torch.split(x, rows)])


def _diagonal(kernel: Kernel, x: Tensor) -> Tensor:
    """The kernel of each row with itself, ``(N,)``."""
    return torch.cat([kernel(part, part).diagonal() for part in torch.split(x, 256)])


@dataclass(frozen=True)
class KernelSums:
    """Means of a kernel over the pairs within a set of samples, within the real set, and between.

    Args:
        kernel: The kernel.
        samples: ``(N, D)`` float64.
        real: ``(M, D)`` float64.
        with_self: Whether a vector is paired with itself. With it the estimate of the squared mean
            discrepancy is biased upwards and never negative; without it, unbiased.
    """

    kernel: Kernel
    samples: Tensor
    real: Tensor
    with_self: bool

    def discrepancy(self) -> float:
        """The squared maximum mean discrepancy of the two sets."""
        between = _row_sums(self.kernel, self.samples, self.real).sum()
        pairs = len(self.samples) * len(self.real)
        return float(self._within(self.samples) + self._within(self.real) - 2 * between / pairs)

    def _within(self, x: Tensor) -> Tensor:
        return self._mean(
            _row_sums(self.kernel, x, x).sum(), _diagonal(self.kernel, x).sum(), len(x)
        )

    def _mean(self, total: Tensor, diagonal: Tensor, count: int) -> Tensor:
        if self.with_self:
            return total / count**2
        return (total - diagonal) / (count * (count - 1))

    def subsets(self) -> Callable[[Tensor], float]:
        """The discrepancy of subsets of the samples to the real set, as a function of indices."""
        if len(self.samples) > _KEPT:
            return lambda indices: KernelSums(
                self.kernel, self.samples[indices], self.real, self.with_self
            ).discrepancy()
        within_real = self._within(self.real)
        between = _row_sums(self.kernel, self.samples, self.real) / len(self.real)
        matrix = self.kernel(self.samples, self.samples)
        diagonal = matrix.diagonal()

        def discrepancy(indices: Tensor) -> float:
            # Repeated samples count as often as they come: a sum over pairs with multiplicities.
            times = torch.bincount(indices, minlength=len(matrix)).double()
            within = self._mean(times @ matrix @ times, times @ diagonal, len(indices))
            return float(within + within_real - 2 * between[indices].mean())

        return discrepancy
