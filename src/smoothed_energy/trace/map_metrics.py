r"""Metrics of maps: Frobenius norm, Laplacian variance and gradient entropy.

Each is taken of every map $X$ (a channel, of every frame of a video) by itself, and averaged over
the maps of a sample.

References:
    | [Re] Smoothed Energy Guidance (MLRC 2025), section 6 and equations 12 to 15
"""

from __future__ import annotations

__all__ = ["BINS", "frobenius_norm", "gradient_entropy", "laplacian_variance"]

import torch
from torch import Tensor

#: The number of bins of the histogram of gradient magnitudes.
BINS = 32


def frobenius_norm(maps: Tensor) -> Tensor:
    r"""The Frobenius norm $\sqrt{\sum_{ij} X_{ij}^2}$, mean over the maps.

    Args:
        maps: `(B, M, H, W)`.

    Returns:
        `(B,)`.
    """
    norms: Tensor = torch.linalg.vector_norm(maps, dim=(-2, -1))
    return norms.mean(dim=-1)


def laplacian_variance(maps: Tensor) -> Tensor:
    r"""The variance over places of $L * X$ ([Re] equation 12), mean over the maps.

    $L$ is the 3 x 3 kernel of rows (0, 1, 0), (1, -4, 1), (0, 1, 0). It is taken where it lies
    wholly inside the map, at $(H - 2)(W - 2)$ places, so that no padding adds an edge. The variance
    is the mean square distance from the mean.

    Args:
        maps: `(B, M, H, W)`.

    Returns:
        `(B,)`; NaN where a side is shorter than 3.
    """
    if min(maps.shape[-2:]) < 3:
        return _unknown(maps)
    columns, rows = maps[..., 1:-1], maps[..., 1:-1, :]
    laplacian = columns[..., :-2, :] + columns[..., 2:, :]
    laplacian.add_(rows[..., :-2]).add_(rows[..., 2:]).sub_(columns[..., 1:-1, :], alpha=4)
    laplacian.sub_(laplacian.mean(dim=(-2, -1), keepdim=True))
    return laplacian.square_().mean(dim=(-3, -2, -1))


def gradient_entropy(maps: Tensor, bins: int = BINS) -> Tensor:
    r"""The entropy of the magnitudes of gradients ([Re] equations 13 to 15), mean over the maps.

    The gradients are those of Sobel, $G_x$ of rows (-1, 0, 1), (-2, 0, 2), (-1, 0, 1) and
    $G_y = G_x^\top$, at the $(H - 2)(W - 2)$ places where they lie wholly inside the map. Their
    magnitudes $\sqrt{G_x^2 + G_y^2}$ fall into `bins` bins of equal width from 0 to the greatest
    magnitude of the same map, which the last bin holds; $-\sum p \log p$ of the bins' shares is in
    nats, and lies in $[0, \log(\text{bins})]$. A map without any gradient has 0. Since the range is
    each map's own, the number does not change if a map is scaled.

    Values compare only where number and range of the bins agree.

    Args:
        maps: `(B, M, H, W)`.
        bins: The number of bins.

    Returns:
        `(B,)`; NaN where a side is shorter than 3, or a number is not finite.
    """
    if min(maps.shape[-2:]) < 3:
        return _unknown(maps)
    above, rows, below = maps[..., :-2, :], maps[..., 1:-1, :], maps[..., 2:, :]
    smooth, steep = (above + below).add_(rows, alpha=2), below - above
    g_x = smooth[..., 2:] - smooth[..., :-2]
    g_y = (steep[..., :-2] + steep[..., 2:]).add_(steep[..., 1:-1], alpha=2)
    magnitude = torch.hypot(g_x, g_y).flatten(2)
    greatest = magnitude.amax(dim=-1, keepdim=True)
    magnitude.div_(greatest.clamp_min(torch.finfo(maps.dtype).tiny)).mul_(bins)
    bin_of = magnitude.long().clamp_(0, bins - 1)
    shares = maps.new_zeros(*magnitude.shape[:2], bins)
    shares.scatter_add_(-1, bin_of, magnitude.fill_(1 / magnitude.shape[-1]))
    # Over the maps at once: the sum over bins, and the mean over maps. What is not finite has no
    # bin, and makes it NaN.
    entropies: Tensor = torch.special.entr(shares).sum(dim=(-2, -1)).div_(maps.shape[1])
    return entropies.add_(greatest.sum(dim=(-2, -1)), alpha=0)


def _unknown(maps: Tensor) -> Tensor:
    return maps.new_full((len(maps),), torch.nan)
