r"""CMMD: the maximum mean discrepancy of CLIP embeddings with a Gaussian kernel.

Jayasumana et al., "Rethinking FID: Towards a Better Evaluation Metric for Image Generation", CVPR
2024 (https://arxiv.org/abs/2401.09603): the squared discrepancy with the kernel
:math:`\exp(-|x - y|^2 / 2 \sigma^2)`, :math:`\sigma = 10`, times 1000. As in the authors' code it
is the estimate that pairs each vector with itself, too (biased upwards, never negative, of the
least variance), and embeddings are those of ViT-L/14 at 336 pixels, of unit length.

The number is a CMMD for embeddings of CLIP only. At unit length all squared distances are at most
4, far below :math:`2 \sigma^2 = 200`; features of another scale meet another part of the kernel.
"""

from __future__ import annotations

__all__ = ["CMMD", "cmmd"]

import math

import torch
from torch import Tensor

from .kernel_sums import KernelSums, check_pair
from .metric import Metric, SubsetValue

_SIGMA = 10.0
_SCALE = 1000.0


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return torch.exp(squares.clamp_min(0) / (-2 * _SIGMA**2))


def _sums(first: Tensor, second: Tensor) -> KernelSums:
    x, y = check_pair(first, second)
    return KernelSums(_kernel, x, y, with_self=True)


def cmmd(first: Tensor, second: Tensor) -> float:
    """The distance of features ``(N, D)`` and ``(M, D)``, taken as they are.

    Raises:
        ValueError: If either set has fewer than two vectors, or the dimensions differ.
    """
    return _SCALE * _sums(first, second).discrepancy()


def _prepare(samples: Tensor, real: Tensor) -> SubsetValue:
    discrepancy = _sums(samples, real).subsets()
    return lambda indices: _SCALE * discrepancy(indices)


#: The distance of samples to real images.
CMMD = Metric("cmmd", cmmd, better="lower", least=2, prepare=_prepare, bounds=(0, math.inf))
