"""Precision and recall: which samples lie among the real images, and which of those are reached.

Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", NeurIPS
2019 (https://arxiv.org/abs/1904.06991). Precision is the share of samples that lie in a ball of the
real images' manifold, recall the share of real images in a ball of the samples'. Balls reach the
fifth neighbour, as in `density_coverage`; the paper has the third.
"""

from __future__ import annotations

__all__ = ["PRECISION", "RECALL", "precision", "recall"]

import torch
from torch import Tensor

from .metric import Metric, SubsetValue
from .neighbours import NEIGHBOURS, check_features, distance_blocks, radii

#: Up to so many distances are kept for subsets: 1 GiB of float64.
_KEPT = 1 << 27


def _inside(x: Tensor, centres: Tensor, reach: Tensor) -> Tensor:
    """Which rows of ``x`` lie in a ball, ``(N,)`` bool."""
    return torch.cat([(block < reach).any(1) for block in distance_blocks(x, centres)])


def precision(samples: Tensor, real: Tensor) -> float:
    """The share of samples, features ``(N, D)``, in a ball of the real images' ``(M, D)``.

    Raises:
        ValueError: If either set has fewer than six vectors, or the dimensions differ.
    """
    x, y = check_features(samples, real)
    return float(_inside(x, y, radii(y)).double().mean())


def recall(samples: Tensor, real: Tensor) -> float:
    """The share of real images, features ``(M, D)``, in a ball of the samples' ``(N, D)``.

    Raises:
        ValueError: If either set has fewer than six vectors, or the dimensions differ.
    """
    return precision(real, samples)


def _prepare_precision(samples: Tensor, real: Tensor) -> SubsetValue:
    x, y = check_features(samples, real)
    inside = _inside(x, y, radii(y)).double()
    return lambda indices: float(inside[indices].mean())


def _prepare_recall(samples: Tensor, real: Tensor) -> SubsetValue:
    x, y = check_features(samples, real)
    if len(x) * (len(x) + len(y)) > _KEPT:
        return lambda indices: recall(x[indices], y)
    among, to_real = torch.cdist(x, x), torch.cdist(y, x)

    def value(indices: Tensor) -> float:
        reach = among[indices][:, indices].kthvalue(NEIGHBOURS + 1, dim=1).values
        return float((to_real[:, indices] < reach).any(1).double().mean())

    return value


_LEAST = NEIGHBOURS + 1

#: The share of samples that lie among the real images.
PRECISION = Metric(
    "precision", precision, "higher", _LEAST, prepare=_prepare_precision, bounds=(0, 1)
)

#: The share of real images that lie among the samples.
RECALL = Metric("recall", recall, "higher", _LEAST, prepare=_prepare_recall, bounds=(0, 1))
