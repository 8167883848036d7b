r"""The curvature of the energy of attention, of every query.

The Hessian of $-\operatorname{lse}(a)$ with respect to the logits $a$ is

$$H = p\,p^\top - \operatorname{diag}(p), \qquad p = \operatorname{softmax}(a).$$

Its rows sum to 0, so its determinant is 0 whatever $a$ is, and says nothing. $-H$ is positive
semidefinite, the covariance of a key drawn by $p$; its size is measured here in three ways.

References:
    | Smoothed Energy Guidance (Hong, NeurIPS 2024), https://arxiv.org/abs/2408.00760, theorem 3.1
    | Some Modified Matrix Eigenvalue Problems (Golub, 1973): eigenvalues of a diagonal matrix plus
    | one of rank one
"""

from __future__ import annotations

__all__ = ["SoftmaxCurvature", "largest_eigenvalue", "softmax_curvature"]

from dataclasses import dataclass

import torch
from torch import Tensor

from .logits import BLOCK, reduce_logits

#: Newton's method below takes less than ten steps; the limit is for values that are not numbers.
_STEPS = 60


@dataclass(frozen=True)
class SoftmaxCurvature:
    r"""The size of $-H = \operatorname{diag}(p) - p\,p^\top$ of every query.

    Args:
        trace: `(..., T)`, $1 - \sum_j p_j^2$, in [0, 1 - 1/n]: the sum of the eigenvalues. The mean
            over a head is `trace.mean(-1)`, and so on.
        spectral_norm: `(..., T)`, the largest eigenvalue, in [0, 1/2].
        log_pseudo_determinant: `(..., T)`, the sum of the logarithms of the n - 1 eigenvalues that
            are not 0, in nats: $\log n + \sum_j \log p_j$, at most $(1 - n) \log n$.
    """

    trace: Tensor
    spectral_norm: Tensor
    log_pseudo_determinant: Tensor


def softmax_curvature(
    query: Tensor,
    key: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    block: int = BLOCK,
) -> SoftmaxCurvature:
    r"""The curvature of the energy at every query, with respect to its logits.

    Trace and pseudo-determinant are largest where $p$ is uniform over the n keys that the query
    sees. The spectral norm is 1/n there, and largest where two keys share all attention. With
    queries and keys exchanged this is the curvature of the energy as SEG defines it; see
    `smoothed_energy.energy.attention_energy`.

    Args:
        query: `(..., T, d)`, of a real floating-point dtype.
        key: `(..., S, d)`, with leading dimensions that broadcast with those of the query.
        scale: The factor of the logits; by default $1 / \sqrt d$.
        mask: As in `log_sum_exp`. Keys that a query does not see are left out. A query that sees
            none gets nan.
        block: Queries at a time, of all heads and samples together: memory is O(block S).

    Returns:
        Tensors `(..., T)`, float64 (float32 on devices without it).

    Raises:
        ValueError: If the shapes do not fit, or are empty.
        TypeError: If query and key are not of a real floating-point dtype.
    """
    found = reduce_logits(_curvature, query, key, scale=scale, mask=mask, block=block)
    return SoftmaxCurvature(*found.unbind(dim=-1))


def largest_eigenvalue(p: Tensor) -> Tensor:
    r"""The largest eigenvalue of $\operatorname{diag}(p) - p\,p^\top$.

    With $p_1 \ge p_2$ the largest entries, it is $p_1$ if they are equal. Otherwise it is the root
    in $(p_2, p_1)$ of the secular equation $\sum_j p_j / (p_j - \lambda) = 0$, that is of

    $$f(\lambda) = \Bigl(\sum_{j > 1} \frac{p_j}{\lambda - p_j}\Bigr)^{-1}
    - \frac{p_1 - \lambda}{p_1},$$

    which grows and is concave there, so that Newton's method from below never passes the root.

    Args:
        p: `(..., n)`, float32 or float64: not negative, with sum 1.

    Returns:
        `(...)`.
    """
    if p.shape[-1] == 1:
        return torch.zeros_like(p[..., 0])
    first, second = p.topk(2, dim=-1).values.unbind(-1)
    others = p.scatter(-1, p.argmax(-1, keepdim=True), 0.0)
    rest = others.sum(-1)
    # Rayleigh quotients of e_1 - e_2 and e_1, which are below the root.
    below = (first * rest + second * (1 - second)) / 2 + first * second
    value = torch.maximum(below, first * rest)
    precision = torch.finfo(p.dtype).eps
    single = (first - second <= 8 * precision * first) | (rest <= 0)
    for _ in range(_STEPS):
        distance = value[..., None] - others
        terms = others / distance
        total, slope = terms.sum(-1), (terms / distance).sum(-1)
        step = ((first - value) / first - 1 / total) / (slope / total.square() + 1 / first)
        step = step.where(~single, 0.0).clamp(min=0)
        value = value + step
        if not (step > precision * value).any():
            break
    return value.minimum(first).maximum(second).where(~single, first.where(rest > 0, 0.0))


def _curvature(logits: Tensor) -> Tensor:
    """Trace, largest eigenvalue and log pseudo-determinant: `(n, r, S)` to `(n, r, 3)`."""
    exact = logits if logits.device.type == "mps" else logits.double()
    log_p = exact.log_softmax(dim=-1)
    p = log_p.exp()
    seen = ~log_p.isneginf()
    count = seen.sum(dim=-1)
    # 1 - sum p^2 without the difference of nearly equal numbers.
    trace = (p * -log_p.expm1()).sum(dim=-1)
    log_determinant = count.to(p.dtype).log() + log_p.where(seen, 0.0).sum(dim=-1)
    return torch.stack([trace, largest_eigenvalue(p), log_determinant], dim=-1)
