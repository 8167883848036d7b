r"""Hessians of the energy of attention as matrices, for mathematics and tests.

They take `(n, n)` numbers for each row of logits; of all queries of a real layer, measure
`smoothed_energy.energy.softmax_curvature`.

References:
    Smoothed Energy Guidance (Hong, NeurIPS 2024), https://arxiv.org/abs/2408.00760, theorem 3.1 and
    appendix A.3
"""

from __future__ import annotations

__all__ = ["entrywise_hessian", "smoothed_hessian", "softmax_hessian"]

import torch
from torch import Tensor


def softmax_hessian(logits: Tensor) -> Tensor:
    r"""The Hessian of $-\operatorname{lse}(a)$: $H(a) = p\,p^\top - \operatorname{diag}(p)$.

    It is negative semidefinite, and its rows sum to 0.

    Args:
        logits: $a$, `(..., n)`.

    Returns:
        `(..., n, n)`.
    """
    p = logits.softmax(dim=-1)
    return p[..., :, None] * p[..., None, :] - torch.diag_embed(p)


def smoothed_hessian(logits: Tensor, matrix: Tensor) -> Tensor:
    r"""The Hessian of $a \mapsto -\operatorname{lse}(B a)$: $B^\top H(B a)\, B$, by the chain rule.

    Args:
        logits: $a$, `(..., n)`.
        matrix: $B$, `(n, n)`, of the same dtype.

    Returns:
        `(..., n, n)`.
    """
    return matrix.mT @ softmax_hessian(logits @ matrix.mT) @ matrix


def entrywise_hessian(logits: Tensor, matrix: Tensor) -> Tensor:
    r"""What the proof of SEG's theorem 3.1 writes: $\tilde h_{ij} = h_{ij}(B a)\, b_{ij}$.

    The chain rule gives `smoothed_hessian` instead. Unlike that, it need not be singular.

    Args:
        logits: $a$, `(..., n)`.
        matrix: $B$, `(n, n)`, of the same dtype.

    Returns:
        `(..., n, n)`.
    """
    return softmax_hessian(logits @ matrix.mT) * matrix
