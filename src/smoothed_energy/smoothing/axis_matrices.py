"""Filters along one axis of a grid as matrices, with their padding folded in."""

from __future__ import annotations

__all__ = ["PADDINGS", "box_matrix", "gaussian_matrix"]

import math

import torch
from torch import Tensor

from .layout import EXACT

PADDINGS = ("reflect", "symmetric", "replicate", "circular", "zeros")
"""What a filter sees beyond the border, for a row of tokens `a b c`.

| name | left of `a` | note |
|---|---|---|
| `reflect` | `.. c b` | the border token is not repeated; torch's and the reference's `reflect` |
| `symmetric` | `.. b a` | the border token is repeated; $B$ is doubly stochastic |
| `replicate` | `.. a a` | |
| `circular` | `.. b c` | $B$ is doubly stochastic |
| `zeros` | `.. 0 0` | rows sum to less than 1 near the border |
"""


def gaussian_matrix(
    length: int, sigma: float, kernel_size: int | None, padding: str
) -> Tensor | None:
    """A Gaussian filter of an axis.

    Args:
        length: Number n of tokens on the axis.
        sigma: Standard deviation in tokens, in [0, inf].
        kernel_size: Number of taps; None for the reference's.
        padding: One of `PADDINGS`.

    Returns:
        `(n, n)`, float64 on the CPU; None for the identity.
    """
    if length == 1 or sigma == 0:
        return None
    if sigma == math.inf:
        return torch.full((length, length), 1 / length, **EXACT)
    size = _limit(_reference_kernel_size(sigma) if kernel_size is None else kernel_size, length)
    if size == 1:
        return None
    x = torch.linspace(-(size - 1) / 2, (size - 1) / 2, size, **EXACT)
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return _filter_matrix(weights / weights.sum(), length, padding)


def box_matrix(length: int, kernel_size: int, padding: str) -> Tensor | None:
    """A mean over a window along an axis.

    Args:
        length: Number n of tokens on the axis.
        kernel_size: Number of tokens in the window, positive and odd.
        padding: One of `PADDINGS`.

    Returns:
        `(n, n)`, float64 on the CPU; None for the identity.
    """
    size = _limit(kernel_size, length)
    if length == 1 or size == 1:
        return None
    return _filter_matrix(torch.full((size,), 1 / size, **EXACT), length, padding)


def _reference_kernel_size(sigma: float) -> int:
    """`ceil(6 sigma)`, plus one where that is even."""
    taps = math.ceil(6 * sigma)
    return taps + 1 - taps % 2


def _limit(kernel_size: int, length: int) -> int:
    """The kernel's size, at most the largest odd one that the reference allows on such an axis."""
    return min(kernel_size, length - (length % 2 - 1))


def _filter_matrix(weights: Tensor, length: int, padding: str) -> Tensor:
    """The `length` x `length` matrix of a filter with these weights."""
    taps = len(weights)
    offsets = torch.arange(taps, device="cpu") - taps // 2
    source = torch.arange(length, device="cpu")[:, None] + offsets
    values = weights.expand(length, taps)
    if padding == "reflect":
        source = source.remainder(2 * length - 2)
        source = torch.minimum(source, 2 * length - 2 - source)
    elif padding == "symmetric":
        source = source.remainder(2 * length)
        source = torch.minimum(source, 2 * length - 1 - source)
    elif padding == "circular":
        source = source.remainder(length)
    else:
        if padding == "zeros":
            values = values * ((source >= 0) & (source < length))
        source = source.clamp(0, length - 1)
    return torch.zeros(length, length, **EXACT).scatter_add_(1, source, values)
