"""Tokens of a grid in memory: their number, and the shape and dtype to multiply them in.

Tokens lie on a grid `(H, W)`, or `(F, H, W)` for video, in row-major order: token
`t = (f H + h) W + w`.
"""

from __future__ import annotations

__all__ = [
    "EXACT",
    "check_grid",
    "check_tokens",
    "frames_of",
    "rows_of",
    "tokens_of",
    "without_autocast",
    "working_dtype",
]

import math
import operator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

EXACT: dict[str, Any] = {"dtype": torch.float64, "device": torch.device("cpu")}
"""Dtype and device of an operator's exact numbers, whatever it is applied to."""


def check_grid(grid: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of a grid, as integers.

    Raises:
        ValueError: Unless they are two or three positive ones.
    """
    sizes = tuple([operator.index(size) for size in grid])
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise ValueError(f"a grid is (H, W) or (F, H, W), of positive sizes; got {tuple(grid)!r}")
    return sizes


def check_tokens(tokens: Tensor, grid: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of a grid that holds these tokens.

    Args:
        tokens: `(..., T, d)`.
        grid: `(H, W)` or `(F, H, W)`.

    Raises:
        ValueError: If the grid is none, or does not hold T tokens.
        TypeError: If the tokens are not of a real floating-point dtype.
    """
    sizes = check_grid(grid)
    if not tokens.is_floating_point():
        raise TypeError(f"tokens must be of a real floating-point dtype; got {tokens.dtype}")
    if tokens.ndim < 2 or tokens.shape[-2] != math.prod(sizes):
        raise ValueError(
            f"a grid {sizes} holds {math.prod(sizes)} tokens, but tokens of shape "
            f"{tuple(tokens.shape)} (..., T, d) do not have T = {math.prod(sizes)}"
        )
    return sizes


def frames_of(grid: tuple[int, ...]) -> tuple[int, int]:
    """The number of frames of a grid, and the number of tokens in each."""
    return (1, math.prod(grid)) if len(grid) == 2 else (grid[0], math.prod(grid[1:]))


def working_dtype(tokens: Tensor) -> torch.dtype:
    """The dtype to multiply in: that of the tokens, but float32 for float16 on a CPU.

    There, products of matrices in float16 take a hundred times as long; two casts take hardly any
    time.
    """
    if tokens.dtype == torch.float16 and tokens.device.type == "cpu":
        return torch.float32
    return tokens.dtype


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A block without autocast, which would change the dtype of computation and result."""
    kind = device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def rows_of(tokens: Tensor) -> tuple[Tensor, torch.Size]:
    """Tokens as rows, not copied where their memory layout allows it.

    Queries usually lie in memory as `(B, T, heads, d)` and are seen as `(B, heads, T, d)`. Rows of
    these have the heads as columns: `(B, T, heads d)`.

    Args:
        tokens: `(..., T, d)`.

    Returns:
        The rows `(N, T, D)`, and the shape that `tokens_of` needs to undo this.
    """
    if tokens.ndim >= 4 and not tokens.is_contiguous():
        inner = tokens.transpose(-3, -2)
        if inner.stride(-1) == 1 and inner.stride(-2) == inner.shape[-1]:
            inner = inner.flatten(-2)
            return inner.reshape(-1, *inner.shape[-2:]), inner.shape
    return tokens.reshape(-1, *tokens.shape[-2:]), tokens.shape


def tokens_of(rows: Tensor, shape: torch.Size, folded: torch.Size) -> Tensor:
    """The tokens of rows: `rows_of` undone.

    Args:
        rows: `(N, T, D)`.
        shape: The shape of the tokens, `(..., T, d)`.
        folded: The shape that `rows_of` returned with the rows.
    """
    rows = rows.reshape(folded)
    if folded == shape:
        return rows
    *batch, heads, length, width = shape
    return rows.reshape(*batch, length, heads, width).transpose(-3, -2)
