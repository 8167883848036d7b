r"""What the second pass changes inside attention.

A perturbation stands for $\tilde A$ in $\tilde s = s_\theta(\cdot;\, \tilde A)$, the prediction
that guidance moves away from. It knows nothing of layers, steps or model families.
"""

from __future__ import annotations

__all__ = ["BlurQueries", "Perturbation"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .smoothing import Smoothing

# Large enough that no kernel degenerates for lack of neighbours.
_ANY_GRID = (8, 8)


class Perturbation(ABC):
    """A change of scaled dot-product attention, given the grid on which its tokens lie."""

    @abstractmethod
    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        options: Mapping[str, Any],
        native: Callable[..., Tensor],
        grid: tuple[int, ...],
    ) -> Tensor:
        """Perturbed attention.

        Args:
            query: `(B, heads, T, d)`, as it enters the softmax.
            key: `(B, heads, S, d)`.
            value: `(B, heads, S, d)`.
            options: The other arguments of `scaled_dot_product_attention`.
            native: `scaled_dot_product_attention`.
            grid: The layout of the T tokens, `(H, W)`, row-major.

        Returns:
            `(B, heads, T, d)`, dtype and device of `query`.
        """

    @property
    def is_identity(self) -> bool:
        """Whether attention is left as it is, so that there is nothing to guide away from."""
        return False


@dataclass(frozen=True)
class BlurQueries(Perturbation):
    r"""Attention with smoothed queries, $\operatorname{softmax}(B Q K^\top / \sqrt d)\, V$.

    By Proposition 3.1 of the paper (arXiv 2408.00760), $B (Q K^\top) = (B Q) K^\top$: smoothing the
    queries over space smooths the attention weights before the softmax, and never forms them.

    Args:
        smoothing: The linear operator $B$ over the tokens.
    """

    smoothing: Smoothing

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        options: Mapping[str, Any],
        native: Callable[..., Tensor],
        grid: tuple[int, ...],
    ) -> Tensor:
        """Attention of the smoothed queries; see `Perturbation.attend`."""
        if self.smoothing.is_uniform(grid) and _same_for_all_queries(options):
            # All smoothed queries of a head are equal, so one is enough: O(T d), not O(T^2 d).
            attended = native(query.mean(dim=-2, keepdim=True), key, value, **options)
            return attended.expand(*query.shape[:-1], attended.shape[-1])
        return native(self.smoothing.apply(query, grid), key, value, **options)

    @property
    def is_identity(self) -> bool:
        """Whether the operator is the identity (sigma = 0)."""
        return self.smoothing.is_identity(_ANY_GRID)


def _same_for_all_queries(options: Mapping[str, Any]) -> bool:
    """Whether mask and causality treat every query alike."""
    mask = options.get("attn_mask")
    return not options.get("is_causal") and (mask is None or mask.shape[-2] == 1)
