"""Density and coverage: how densely samples lie among real images, and how many they reach.

Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", ICML 2020
(https://arxiv.org/abs/2002.09797). Balls are those of the real images only, so that outliers among
the samples make no large balls. Density is the number of balls a sample lies in, over k, on average
(1 for samples of the same distribution, and it may be more); coverage the share of real images with
a sample in their ball. Here k = 5, as in the paper.
"""

from __future__ import annotations

__all__ = ["COVERAGE", "DENSITY", "coverage", "density"]

import math

import torch
from torch import Tensor

from .metric import Metric, SubsetValue
from .neighbours import NEIGHBOURS, check_features, distance_blocks, radii

#: Up to so many pairs are kept for subsets, a byte each: 1 GiB.
_KEPT = 1 << 30


def _balls(x: Tensor, y: Tensor) -> Tensor:
    """In how many balls of ``y`` each row of ``x`` lies, ``(N,)`` float64."""
    reach = radii(y)
    return torch.cat([(block < reach).sum(1) for block in distance_blocks(x, y)]).double()


def density(samples: Tensor, real: Tensor) -> float:
    """The density of samples, features ``(N, D)``, among real images ``(M, D)``.

    Raises:
        ValueError: If either set has fewer than six vectors, or the dimensions differ.
    """
    return float(_balls(*check_features(samples, real)).mean() / NEIGHBOURS)


def coverage(samples: Tensor, real: Tensor) -> float:
    """The share of real images, features ``(M, D)``, with a sample of ``(N, D)`` in their ball.

    Raises:
        ValueError: If either set has fewer than six vectors, or the dimensions differ.
    """
    x, y = check_features(samples, real)
    nearest = torch.cat([block.amin(1) for block in distance_blocks(y, x)])
    return float((nearest < radii(y)).double().mean())


def _prepare_density(samples: Tensor, real: Tensor) -> SubsetValue:
    balls = _balls(*check_features(samples, real))
    return lambda indices: float(balls[indices].mean() / NEIGHBOURS)


def _prepare_coverage(samples: Tensor, real: Tensor) -> SubsetValue:
    x, y = check_features(samples, real)
    if len(x) * len(y) > _KEPT:
        return lambda indices: coverage(x[indices], y)
    reach = radii(y)
    reached = torch.cat([block < reach for block in distance_blocks(x, y)])
    return lambda indices: float(reached[indices].any(0).double().mean())


_LEAST = NEIGHBOURS + 1

#: How densely samples lie among the real images.
DENSITY = Metric(
    "density", density, "higher", _LEAST, prepare=_prepare_density, bounds=(0, math.inf)
)

#: The share of real images that samples reach.
COVERAGE = Metric("coverage", coverage, "higher", _LEAST, prepare=_prepare_coverage, bounds=(0, 1))
