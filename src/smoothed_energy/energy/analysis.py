r"""What a smoothing operator does to any tokens: its sums, norms, reach, and three requirements.

The proofs of smoothed energy guidance use three properties of a blur $B$ of T tokens, which the
published study of smoothing filters makes requirements of any filter:

1. the mean is preserved (lemma 3.1): $\mathbf 1^\top B = \mathbf 1^\top$, the columns sum to 1;
2. the variance never grows (lemma 3.1);
3. the diagonal lies in $0 \le b_{ii} < 1$ (theorem 3.1).

References:
    | Smoothed Energy Guidance (Hong, NeurIPS 2024), https://arxiv.org/abs/2408.00760, appendix A
    | [Re] Smoothed Energy Guidance (MLRC 2025), section 5.1
"""

from __future__ import annotations

__all__ = ["OperatorAnalysis", "Range", "Requirement", "analyse"]

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..smoothing import Smoothing, as_smoothing

#: Rounding of sums and norms of float64 matrices.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Range:
    """The least and the largest of some numbers."""

    least: float
    largest: float

    @property
    def deviation(self) -> float:
        """How far they are from 1 at most."""
        return max(abs(self.least - 1), abs(self.largest - 1))


@dataclass(frozen=True)
class Requirement:
    """One requirement, and by how much an operator meets it.

    Args:
        name: `"mean"`, `"variance"` or `"diagonal"`.
        statement: What is required.
        margin: How far the operator is from the bound, in the units of the statement: negative
            where it fails, 0 on the bound.
        holds: Whether it is met, rounding (1e-9) left aside.
    """

    name: str
    statement: str
    margin: float
    holds: bool


@dataclass(frozen=True)
class OperatorAnalysis:
    r"""An operator's matrix $B$ on a grid of T tokens, in numbers.

    Args:
        operator: The operator.
        grid: `(H, W)` or `(F, H, W)`.
        column_sums: All 1: the mean over the tokens is preserved.
        row_sums: All 1: equal tokens stay as they are.
        diagonal: $b_{ii}$, the share of itself that a token keeps.
        least_entry: Not negative: each token becomes an average of tokens.
        symmetry_error: $\max |b_{ij} - b_{ji}|$.
        spectral_norm: The largest singular value of $B$: how much the root of the sum of squares of
            tokens may grow. At least 1 if all rows sum to 1.
        deviation_norm: How much the standard deviation of tokens may grow, the largest singular
            value of $(I - J) B (I - J)$ with $J$ the mean; infinite if rows have different sums,
            since equal tokens have no deviation.
        effective_radius: The root of the mean squared distance from a token to those that it
            becomes an average of, in tokens:
            $\sqrt{\sum_{ij} |b_{ij}|\, d_{ij}^2 / \sum_{ij} |b_{ij}|}$ with Euclidean distances on
            the grid. $\sigma \sqrt 2$ for a Gaussian far from borders.
    """

    operator: Smoothing
    grid: tuple[int, ...]
    column_sums: Range
    row_sums: Range
    diagonal: Range
    least_entry: float
    symmetry_error: float
    spectral_norm: float
    deviation_norm: float
    effective_radius: float

    @property
    def doubly_stochastic(self) -> bool:
        """Whether no entry is negative and all rows and columns sum to 1.

        Then the energy of attention never falls if the queries are smoothed, of any tokens.
        """
        return self.least_entry >= -_TOLERANCE and (
            max(self.column_sums.deviation, self.row_sums.deviation) <= _TOLERANCE
        )

    @property
    def requirements(self) -> tuple[Requirement, Requirement, Requirement]:
        """Mean, variance and diagonal, in this order."""
        mean = -self.column_sums.deviation
        variance = 1 - self.deviation_norm
        below_one = 1 - self.diagonal.largest
        diagonal = min(self.diagonal.least, below_one)
        return (
            Requirement("mean", "|column sum - 1| <= 0", mean, mean >= -_TOLERANCE),
            Requirement("variance", "deviation_norm <= 1", variance, variance >= -_TOLERANCE),
            Requirement(
                "diagonal",
                "0 <= b_ii < 1",
                diagonal,
                self.diagonal.least >= -_TOLERANCE and below_one > _TOLERANCE,
            ),
        )


def analyse(operator: Smoothing | str, grid: tuple[int, ...]) -> OperatorAnalysis:
    """The properties of a smoothing operator on a grid.

    The T x T matrix is formed, and its singular values are computed: for 32 x 32 tokens in about a
    second, in memory of O(T^2) and time of O(T^3).

    Args:
        operator: A `Smoothing`, or its text form such as `"gaussian:10"`.
        grid: `(H, W)`, or `(F, H, W)` for video.

    Raises:
        ValueError: If the text describes no operator, or the grid is none.
        TypeError: If the operator is none.
    """
    operator = as_smoothing(operator)
    matrix = operator.matrix(grid)
    rows = matrix.sum(1)
    row_sums = _range(rows)
    deviation_norm = math.inf
    if row_sums.largest - row_sums.least <= _TOLERANCE:
        centred = matrix - matrix.mean(0)
        deviation_norm = _norm(centred - centred.mean(1, keepdim=True))
    return OperatorAnalysis(
        operator,
        tuple(grid),
        column_sums=_range(matrix.sum(0)),
        row_sums=row_sums,
        diagonal=_range(matrix.diag()),
        least_entry=float(matrix.min()),
        symmetry_error=float((matrix - matrix.T).abs().max()),
        spectral_norm=_norm(matrix),
        deviation_norm=deviation_norm,
        effective_radius=_radius(matrix, grid),
    )


def _range(values: Tensor) -> Range:
    return Range(float(values.min()), float(values.max()))


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def _radius(matrix: Tensor, grid: tuple[int, ...]) -> float:
    places = torch.tensor(list(itertools.product(*map(range, grid))), dtype=matrix.dtype)
    squared = torch.cdist(places, places).square()
    weights = matrix.abs()
    return float(((weights * squared).sum() / weights.sum()).sqrt())
