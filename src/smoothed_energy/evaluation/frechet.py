r"""Frechet distance between two sets of feature vectors.

Each set is summarised by its mean :math:`\mu` and covariance :math:`\Sigma`. Between the two
normal distributions with these moments the squared 2-Wasserstein distance is

.. math:: |\mu_1 - \mu_2|^2 + \operatorname{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

(Dowson and Landau, 1982; for images Heusel et al., 2017, https://arxiv.org/abs/1706.08500).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .metric import Metric

__all__ = ["FRECHET", "Moments", "frechet_distance", "moments"]


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of feature vectors.

    Attributes:
        mean: ``(D,)`` float64.
        covariance: ``(D, D)`` float64, unbiased.
        count: How many vectors there were. The distance is biased upwards for few: compare only
            distances of equal counts.
    """

    mean: Tensor
    covariance: Tensor
    count: int


def moments(features: Tensor) -> Moments:
    """The moments of features ``(N, D)`` of any float dtype, computed in float64.

    Raises:
        ValueError: If there are fewer than two vectors, or values that are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; expected (N >= 2, D)")
    if not torch.isfinite(features).all():
        raise ValueError("features contain values that are not finite")
    x = features.double()
    mean = x.mean(0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1), len(x))


def _root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a symmetric positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def frechet_distance(first: Moments, second: Moments) -> float:
    r"""The squared distance between the normal distributions with these moments.

    The trace of :math:`(\Sigma_1 \Sigma_2)^{1/2}` is computed as that of the symmetric
    :math:`(\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}`, which has the same eigenvalues. Those
    are real and not negative, so that covariances of deficient rank (fewer vectors than
    dimensions) need no added diagonal and leave no imaginary parts to discard.

    Raises:
        ValueError: If the two have different dimensions.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"moments of {len(first.mean)} and of {len(second.mean)} features cannot be compared"
        )
    root = _root(first.covariance)
    product = root @ second.covariance @ root
    values = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0)
    distance = (
        (first.mean - second.mean).square().sum()
        + first.covariance.trace()
        + second.covariance.trace()
        - 2 * values.sqrt().sum()
    )
    # Rounding can leave a tiny negative number between equal distributions.
    return max(float(distance), 0.0)


def _compare(samples: Tensor, real: Tensor) -> float:
    return frechet_distance(moments(samples), moments(real))


#: The distance of samples to real images. It is biased upwards for few: see `Moments.count`.
FRECHET = Metric("frechet", _compare, better="lower", least=2)
