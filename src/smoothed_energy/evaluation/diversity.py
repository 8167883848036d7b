r"""Diversity over the seeds of one prompt: the mean pairwise cosine distance of their features.

.. math:: \frac{2}{N (N - 1)} \sum_{i < j} 1 - \cos(f_i, f_j)

Guidance can make pictures better and all alike; distances of sets see that only in part.
"""

from __future__ import annotations

__all__ = ["DIVERSITY", "mean_pairwise_distance"]

import torch
from torch import Tensor
from torch.nn import functional as F

from .picture_metric import SeedsMetric


def mean_pairwise_distance(features: Tensor) -> float:
    r"""The mean cosine distance of all pairs of features ``(N, D)``, in ``[0, N / (N - 1)]``.

    Of unit vectors, :math:`|\sum_i f_i|^2 = N + 2 \sum_{i < j} f_i \cdot f_j`: no matrix of pairs
    is needed.

    Raises:
        ValueError: If there are fewer than two, or one of them is zero or not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; expected (N >= 2, D)")
    x = features.double()
    if not torch.isfinite(x).all() or bool((x == 0).all(1).any()):
        raise ValueError("features contain zero vectors or values that are not finite")
    count = len(x)
    together = F.normalize(x, dim=1, eps=0).sum(0).square().sum()
    return max(1 - float(together - count) / (count * (count - 1)), 0.0)


#: Diversity over the seeds of one prompt, higher for more different pictures.
DIVERSITY = SeedsMetric(
    name="diversity", measure=mean_pairwise_distance, better="higher", bounds=(0, 2)
)
