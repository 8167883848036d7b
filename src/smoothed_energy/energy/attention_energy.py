r"""The energy of attention, of which softmax attention is a gradient step.

For queries $q_i$ and keys $k_j$ with logits $a_{ij} = c\,q_i \cdot k_j$,

$$E(Q, K) = -\sum_i \operatorname{lse}_j\, a_{ij}, \qquad
\operatorname{lse}_j\, a_{ij} = \log \sum_j \exp a_{ij},$$

and $-\partial E / \partial q_i = c \sum_j \operatorname{softmax}_j(a_{ij})\, k_j$: the gradient is
attention over the keys.

SEG defines the energy by the columns of $A = Q K^\top$ (definition 2.1, equation 5): lse runs over
the *queries*, of each key, and there is no $c$. That is `attention_energy(key, query, scale=1)`.
What a layer computes runs over the keys, the case that SEG's appendix B calls the dual.

References:
    | Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of Attention
    | (Hong, NeurIPS 2024), https://arxiv.org/abs/2408.00760, section 2.2
    | Hopfield Networks is All You Need (Ramsauer et al., ICLR 2021), https://arxiv.org/abs/2008.02217
"""

from __future__ import annotations

__all__ = ["attention_energy", "log_sum_exp"]

import functools

import torch
from torch import Tensor

from .logits import BLOCK, reduce_logits


def log_sum_exp(
    query: Tensor,
    key: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    block: int = BLOCK,
) -> Tensor:
    r"""$\operatorname{lse}_j (c\, q_i \cdot k_j)$ of every query.

    Args:
        query: `(..., T, d)`, of a real floating-point dtype.
        key: `(..., S, d)`, with leading dimensions that broadcast with those of the query.
        scale: $c$; by default $1 / \sqrt d$, the one that attention has.
        mask: As in `scaled_dot_product_attention`: broadcasts to `(..., T, S)`; of bool, true where
            a query sees a key, or numbers that are added to the logits. A query that sees no key
            gets -inf.
        block: Queries at a time, of all heads and samples together: memory is O(block S).

    Returns:
        `(..., T)`, in nats; float64 if query or key are, else float32, in which it is computed.

    Raises:
        ValueError: If the shapes do not fit, or are empty.
        TypeError: If query and key are not of a real floating-point dtype.
    """
    reduce = functools.partial(torch.logsumexp, dim=-1)
    return reduce_logits(reduce, query, key, scale=scale, mask=mask, block=block)


def attention_energy(
    query: Tensor, key: Tensor, *, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""$E = -\sum_i \operatorname{lse}_j (c\, q_i \cdot k_j)$ of every head.

    It grows with the number of tokens: divide by T for a mean over queries. With a doubly
    stochastic $B$, such as a blur with symmetric padding, neither $E(Q, K)$ nor $E(K, Q)$ falls
    when $B Q$ takes the place of $Q$.

    Args:
        query: `(..., T, d)`, of a real floating-point dtype.
        key: `(..., S, d)`, with leading dimensions that broadcast with those of the query.
        scale: $c$; by default $1 / \sqrt d$. See `log_sum_exp`.
        mask: As in `log_sum_exp`.

    Returns:
        `(...)`, in nats, float64 if query or key are, else float32.

    Raises:
        ValueError: If the shapes do not fit, or are empty.
        TypeError: If query and key are not of a real floating-point dtype.
    """
    return -log_sum_exp(query, key, scale=scale, mask=mask).sum(dim=-1)
