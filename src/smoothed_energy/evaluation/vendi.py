r"""Vendi score: how many different pictures a set has, by the similarity of their features.

Friedman and Dieng, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", TMLR 2023
(https://arxiv.org/abs/2210.02410): the exponential of the entropy of the eigenvalues of
:math:`K / n`, where :math:`K` has the cosine similarities of the features. It is 1 for copies of
one picture and :math:`n` for pictures with nothing in common, and grows with their number: compare
only sets of equal counts. Real images have no part in it.
"""

from __future__ import annotations

__all__ = ["VENDI", "vendi_score"]

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .metric import Metric


def _effective_number(matrix: Tensor) -> float:
    """The exponential of the entropy of a symmetric matrix's eigenvalues, which sum to 1."""
    values = torch.linalg.eigvalsh(matrix)
    # Rounding leaves tiny eigenvalues of either sign, where p log p is nothing.
    values = values[values > 0]
    return float(torch.exp(-(values * values.log()).sum()))


def _directions(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 1:
        raise ValueError(f"features have shape {tuple(features.shape)}; expected (N >= 1, D)")
    x = features.double()
    if not torch.isfinite(x).all() or (x == 0).all(1).any():
        raise ValueError(
            "features have vectors that are not finite, or zero: they have no direction"
        )
    return F.normalize(x, dim=1)


def vendi_score(features: Tensor) -> float:
    """The score of features ``(N, D)``, from 1 to N.

    Raises:
        ValueError: If there are none, or one is zero or not finite.
    """
    x = _directions(features)
    # The matrices of pairs of vectors and of pairs of features have the same eigenvalues.
    matrix = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    return _effective_number(matrix / len(x))


def _compare(samples: Tensor, real: Tensor) -> float:
    return vendi_score(samples)


#: The number of different samples; real images are not used.
VENDI = Metric("vendi", _compare, better="higher", least=2, uses_real=False, bounds=(1, math.inf))
