r"""The logits $c\,Q K^\top$ of attention, reduced a block of queries at a time.

What is measured of attention is a number or two for each query. Taken from a few queries at a time,
it needs memory for those queries' logits alone, and never for all $T \times S$ of them.
"""

from __future__ import annotations

__all__ = ["BLOCK", "reduce_logits"]

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..settings.checks import check_count, check_number
from ..smoothing.layout import without_autocast

#: Queries whose logits are in memory at a time, of all heads and samples together.
BLOCK = 1024


@dataclass(frozen=True)
class _Mask:
    """A mask of logits, a block at a time.

    Args:
        mask: `(..., 1 or T, 1 or S)`.
        places: The index of each head and sample in the leading dimensions; empty if the mask is
            the same for all of them.
    """

    mask: Tensor
    places: list[tuple[int, ...]]

    def of(self, logits: Tensor, heads: slice, rows: slice) -> Tensor:
        """The masked logits `(n, r, S)` of some heads and queries."""
        if self.mask.shape[-2] == 1:
            rows = slice(None)
        if self.places:
            part = torch.stack([self.mask[place][rows] for place in self.places[heads]])
        else:
            part = self.mask[rows]
        if part.dtype == torch.bool:
            return logits.masked_fill(~part, -math.inf)
        return logits + part.to(logits.dtype)


def reduce_logits(
    reduce: Callable[[Tensor], Tensor],
    query: Tensor,
    key: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    block: int = BLOCK,
) -> Tensor:
    r"""What a reduction gives for the logits $c\,q_i \cdot k_j$ of every query.

    Args:
        reduce: Takes logits `(n, r, S)` of some heads and queries, float32 or float64, and returns
            `(n, r, ...)`.
        query: `(..., T, d)`, of a real floating-point dtype.
        key: `(..., S, d)`, with leading dimensions that broadcast with those of the query.
        scale: $c$; by default $1 / \sqrt d$, as in `scaled_dot_product_attention`.
        mask: Broadcasts to `(..., T, S)`, as in `scaled_dot_product_attention`: of bool, true where
            a query sees a key, or numbers that are added to the logits.
        block: Queries at a time, of all heads and samples together: memory is O(block S).

    Returns:
        `(..., T, ...)`, of the reduction's dtype.

    Raises:
        ValueError: If the shapes do not fit, or are empty.
        TypeError: If query and key are not of a real floating-point dtype.
    """
    batch = _batch(query, key)
    length, width = query.shape[-2:]
    factor = width**-0.5 if scale is None else check_number("scale", scale)
    block = check_count("block", block)
    masked = None if mask is None else _mask(mask, batch, length, key.shape[-2])
    group, rows = max(1, block // length), min(length, block)
    queries = query.expand(*batch, *query.shape[-2:]).reshape(-1, *query.shape[-2:])
    keys = key.expand(*batch, *key.shape[-2:]).reshape(-1, *key.shape[-2:])
    exact = torch.float64 in (query.dtype, key.dtype)
    working = torch.float64 if exact else torch.float32
    found = []
    with without_autocast(query.device):
        for start in range(0, max(1, len(queries)), group):
            heads = slice(start, start + group)
            columns = keys[heads].to(working).mT
            scaled = queries[heads].to(working) * factor
            parts = []
            for first in range(0, length, rows):
                where = slice(first, first + rows)
                logits = scaled[:, where] @ columns
                parts.append(reduce(logits if masked is None else masked.of(logits, heads, where)))
            found.append(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))
    reduced = found[0] if len(found) == 1 else torch.cat(found)
    return reduced.reshape(*batch, length, *reduced.shape[2:])


def _batch(query: Tensor, key: Tensor) -> tuple[int, ...]:
    """The leading dimensions of the logits."""
    for name, tokens in (("query", query), ("key", key)):
        if not tokens.is_floating_point():
            raise TypeError(
                f"{name}: expected a real floating-point dtype, but it has {tokens.dtype}"
            )
        if tokens.ndim < 2 or 0 in tokens.shape[-2:]:
            raise ValueError(
                f"{name}: expected shape (..., T, d), T and d at least 1, but it has "
                f"{tuple(tokens.shape)}"
            )
    try:
        batch = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    except ValueError:
        batch = None
    if batch is None or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query of shape {tuple(query.shape)} and key of shape {tuple(key.shape)} don't fit; "
            "expected (..., T, d) and (..., S, d), with leading dimensions that broadcast"
        )
    return batch


def _mask(mask: Tensor, batch: tuple[int, ...], length: int, keys: int) -> _Mask:
    """The mask of logits of this shape."""
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"mask: expected bool or real numbers, but it has {mask.dtype}")
    while mask.ndim < 2:
        mask = mask[None]
    expected = (*batch, length, keys)
    try:
        fits = np.broadcast_shapes(mask.shape, expected) == expected
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"mask of shape {tuple(mask.shape)}; expected one that broadcasts to {expected}"
        )
    *leading, rows, columns = mask.shape
    if math.prod(leading) == 1:
        return _Mask(mask.reshape(rows, columns), [])
    places = list(itertools.product(*map(range, batch)))
    return _Mask(mask.expand(*batch, rows, columns), places)
