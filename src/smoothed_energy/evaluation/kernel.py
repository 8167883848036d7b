r"""Kernel distance: the squared maximum mean discrepancy between two sets of features.

Binkowski et al., "Demystifying MMD GANs", 2018 (https://arxiv.org/abs/1801.01401), with their
kernel :math:`k(x, y) = (x \cdot y / D + 1)^3`. Unlike the Frechet distance's, its estimate is
unbiased at any number of samples. In Inception features it is the KID, there usually the mean over
random subsets; here it is taken over all pairs, which has the same expectation and less variance.
"""

from __future__ import annotations

from torch import Tensor

from .kernel_sums import KernelSums, check_pair
from .metric import Metric, SubsetValue

__all__ = ["KERNEL", "kernel_distance"]


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _sums(first: Tensor, second: Tensor) -> KernelSums:
    x, y = check_pair(first, second)
    return KernelSums(_kernel, x, y, with_self=False)


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """The unbiased estimate from features ``(N, D)`` and ``(M, D)``; it may be negative.

    Memory is bounded: the kernel is summed block by block.

    Raises:
        ValueError: If either set has fewer than two vectors, or the dimensions differ.
    """
    return _sums(first, second).discrepancy()


def _prepare(samples: Tensor, real: Tensor) -> SubsetValue:
    return _sums(samples, real).subsets()


#: The distance of samples to real images.
KERNEL = Metric("kernel", kernel_distance, better="lower", least=2, prepare=_prepare)
