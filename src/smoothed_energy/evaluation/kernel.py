r"""Kernel distance: the squared maximum mean discrepancy between two sets of features.

Binkowski et al., "Demystifying MMD GANs", 2018 (https://arxiv.org/abs/1801.01401), with their
kernel :math:`k(x, y) = (x \cdot y / D + 1)^3`. Unlike the Frechet distance's, its estimate is
unbiased at any number of samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .metric import Metric

__all__ = ["KERNEL", "kernel_distance"]


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """The unbiased estimate from features ``(N, D)`` and ``(M, D)``; it may be negative.

    Raises:
        ValueError: If either set has fewer than two vectors, or the dimensions differ.
    """
    for features in (first, second):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features have shape {tuple(features.shape)}; expected (N >= 2, D)")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of {first.shape[1]} and {second.shape[1]} dimensions")
    x, y = first.double(), second.double()
    n, m, d = len(x), len(y), x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / d + 1) ** 3

    xx, yy = kernel(x, x), kernel(y, y)
    within_x = (xx.sum() - torch.trace(xx)) / (n * (n - 1))
    within_y = (yy.sum() - torch.trace(yy)) / (m * (m - 1))
    return float(within_x + within_y - 2 * kernel(x, y).mean())


#: The distance of samples to real images.
KERNEL = Metric("kernel", kernel_distance, better="lower", least=2)
