r"""Frechet distance between two sets of feature vectors.

Each set is summarised by its mean :math:`\mu` and covariance :math:`\Sigma`. Between the two
normal distributions with these moments the squared 2-Wasserstein distance is

.. math:: |\mu_1 - \mu_2|^2 + \operatorname{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

(Dowson and Landau, 1982; for images Heusel et al., 2017, https://arxiv.org/abs/1706.08500).

With :math:`\Sigma_1 = A_1^T A_1` and :math:`\Sigma_2 = A_2^T A_2` the trace of the root is the
nuclear norm :math:`\|A_1 A_2^T\|_*`. Of :math:`n` vectors of :math:`D` features, :math:`A` may be
the centred vectors over :math:`\sqrt{n - 1}`: for :math:`n < D` that is smaller than any root of
the covariance, and exact.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .metric import MomentsMetric, SubsetValue
from .statistics import Moments, moments

__all__ = ["FRECHET", "FrechetReference", "Moments", "frechet_distance", "moments"]


def _root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a symmetric positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def _trace_of_root(matrix: Tensor) -> Tensor:
    """Trace of the square root of a symmetric positive semidefinite matrix."""
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).clamp_min(0)
    trace: Tensor = values.sqrt().sum()
    return trace


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
    return _distance(
        first.mean - second.mean,
        first.covariance.trace() + second.covariance.trace(),
        _trace_of_root(root @ second.covariance @ root),
    )


class FrechetReference:
    """Distances of sets of samples to one reference, whose root is computed once.

    Args:
        reference: The moments of the reference.
    """

    def __init__(self, reference: Moments) -> None:
        self.moments = reference

    @functools.cached_property
    def _root(self) -> Tensor:
        return _root(self.moments.covariance)

    def distance(self, samples: Tensor) -> float:
        """The distance of samples, features ``(N, D)`` of any float dtype.

        Raises:
            ValueError: If there are fewer than two, values that are not finite, or features of
                another dimension.
        """
        if samples.ndim == 2 and len(samples) > samples.shape[1]:
            return frechet_distance(moments(samples), self.moments)
        mean, factor = _factor(self._checked(samples))
        return _distance(
            mean - self.moments.mean,
            factor.square().sum() + self.moments.covariance.trace(),
            torch.linalg.svdvals(factor @ self._root).sum(),
        )

    def subsets(self, samples: Tensor) -> SubsetValue:
        r"""The distance of subsets of samples, as a function of their indices.

        For fewer distinct samples than features it needs the eigenvalues of an :math:`m \times m`
        matrix only, taken from the Gram matrix of all samples, which is computed once.

        Args:
            samples: Features ``(N, D)`` of any float dtype.

        Raises:
            ValueError: If there are fewer than two, values that are not finite, or features of
                another dimension.
        """
        return _Subsets(self._checked(samples), self.moments, self._root)

    def _checked(self, samples: Tensor) -> Tensor:
        if samples.ndim != 2 or len(samples) < 2:
            raise ValueError(f"features have shape {tuple(samples.shape)}; expected (N >= 2, D)")
        if samples.shape[1] != len(self.moments.mean):
            raise ValueError(
                f"features of {samples.shape[1]} dimensions cannot be compared with moments of "
                f"{len(self.moments.mean)}"
            )
        if not torch.isfinite(samples).all():
            raise ValueError("features contain values that are not finite")
        return samples.double().cpu()


class _Subsets:
    """The Frechet distance of subsets of samples to a reference."""

    def __init__(self, samples: Tensor, reference: Moments, root: Tensor) -> None:
        middle = samples.mean(0)
        self._samples = samples - middle
        self._shift = middle - reference.mean
        self._reference_trace = reference.covariance.trace()
        self._squares = self._samples.square().sum(1)
        self._rooted = self._samples @ root

    @functools.cached_property
    def _gram(self) -> Tensor:
        return self._rooted @ self._rooted.T

    def __call__(self, indices: Tensor) -> float:
        count = len(indices)
        if count < 2:
            raise ValueError(f"{count} samples; a Frechet distance needs at least 2")
        rows, times = torch.unique(indices, return_counts=True)
        weights = times.double() / count
        mean = weights @ self._samples[rows]
        unbiased = count / (count - 1)
        variance = (weights @ self._squares[rows] - mean.square().sum()) * unbiased
        return _distance(
            self._shift + mean,
            variance + self._reference_trace,
            self._nuclear_norm(rows, weights) * unbiased**0.5,
        )

    def _nuclear_norm(self, rows: Tensor, weights: Tensor) -> Tensor:
        """That of the weighted, centred samples times the root of the reference."""
        roots = weights.sqrt()[:, None]
        if len(rows) < self._samples.shape[1]:
            gram = self._gram[rows][:, rows]
            middle = gram @ weights
            centred = gram - middle[:, None] - middle + weights @ middle
            return _trace_of_root(centred * roots * roots.T)
        rooted = self._rooted[rows]
        factor = (rooted - weights @ rooted) * roots
        return _trace_of_root(factor.T @ factor)


def _factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of features, and the factor ``A`` of their covariance ``A^T A``."""
    mean = features.mean(0)
    return mean, (features - mean) / (len(features) - 1) ** 0.5


def _distance(shift: Tensor, traces: Tensor, trace_of_root: Tensor) -> float:
    # Rounding can leave a tiny negative number between equal distributions.
    return max(float(shift.square().sum() + traces - 2 * trace_of_root), 0.0)


def _compare(samples: Tensor, real: Tensor) -> float:
    """The distance of two sets of features."""
    reference = FrechetReference(moments(real))
    if max(len(samples), len(real)) > samples.shape[1]:
        return reference.distance(samples)
    # Two sets of fewer vectors than features need no root of a covariance.
    mean, factor = _factor(reference._checked(samples))
    _, real_factor = _factor(real.double().cpu())
    return _distance(
        mean - reference.moments.mean,
        factor.square().sum() + real_factor.square().sum(),
        torch.linalg.svdvals(factor @ real_factor.T).sum(),
    )


def _to_moments(samples: Tensor, real: Moments) -> float:
    return FrechetReference(real).distance(samples)


def _prepare(samples: Tensor, real: Tensor) -> SubsetValue:
    return _prepare_moments(samples, moments(real))


def _prepare_moments(samples: Tensor, real: Moments) -> SubsetValue:
    return FrechetReference(real).subsets(samples)


#: The distance of samples to real images. It is biased upwards for few: see `Moments.count`.
FRECHET = MomentsMetric(
    "frechet",
    _compare,
    better="lower",
    least=2,
    prepare=_prepare,
    bounds=(0, math.inf),
    to_moments=_to_moments,
    between_moments=frechet_distance,
    prepare_moments=_prepare_moments,
)
