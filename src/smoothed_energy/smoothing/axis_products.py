r"""Products of tokens with one matrix for each axis of their grid.

The matrix of all axes is their Kronecker product $B = B_F \otimes B_H \otimes B_W$, and is never
formed. Two (or three) small products are exact for every padding and kernel size, and far faster
than a depthwise convolution with a large kernel.
"""

from __future__ import annotations

__all__ = ["multiply_axes"]

import torch
from torch import Tensor

#: Bytes of rows smoothed at a time on a CPU: what the caches of a core or two hold.
_BLOCK_BYTES = 2 << 20


def multiply_axes(
    rows: Tensor, grid: tuple[int, ...], matrices: tuple[Tensor | None, ...], mix: float
) -> Tensor:
    r"""$m B X + (1 - m) X$, one axis of the grid at a time.

    Args:
        rows: $X$, of shape `(N, T, D)`.
        grid: The sizes of the T tokens' grid.
        matrices: One for each axis, of the rows' dtype and device; None for the identity. At least
            one is not None.
        mix: The share $m$ of the smoothed rows.

    Returns:
        A new tensor like `rows`.
    """
    block = max(1, _BLOCK_BYTES // max(1, rows[:1].numel() * rows.element_size()))
    if (
        rows.device.type == "cpu"
        and len(rows) > block
        and sum(matrix is not None for matrix in matrices) > 1
        and not torch.compiler.is_compiling()
        and _may_write_products(rows)
    ):
        return _apply_in_blocks(rows, block, grid, matrices, mix)
    return _multiply(rows, grid, matrices, mix)


def _may_write_products(rows: Tensor) -> bool:
    """Whether products with these rows can be written to given memory, by `out=`.

    Derivatives, backward or forward, and vmap do not support it, and no public function tells
    whether one of them is active. Trying it with a product of one number does.
    """
    if torch.is_grad_enabled() and rows.requires_grad:
        return False
    number = rows[:1, :1, :1]
    try:
        torch.bmm(number, number, out=torch.empty(1, 1, 1, dtype=rows.dtype))
    except RuntimeError:
        return False
    return True


def _apply_in_blocks(
    rows: Tensor,
    block: int,
    grid: tuple[int, ...],
    matrices: tuple[Tensor | None, ...],
    mix: float,
) -> Tensor:
    """`multiply_axes` on a CPU, a block of rows at a time.

    The product along one axis is still in the cache when the next one reads it, and its buffer
    is allocated once: a third less time for 60 heads of 64 x 64 tokens.
    """
    result = torch.empty(rows.shape, dtype=rows.dtype)
    buffers: dict[int, Tensor] = {}
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        if len(part) < block:
            buffers.clear()
        _multiply(part, grid, matrices, mix, buffers, result[start : start + block])
    return result


def _multiply(
    rows: Tensor,
    grid: tuple[int, ...],
    matrices: tuple[Tensor | None, ...],
    mix: float,
    buffers: dict[int, Tensor] | None = None,
    into: Tensor | None = None,
) -> Tensor:
    """`multiply_axes` of one block; products go to `buffers` by axis, the last one to `into`."""
    count, length, width = rows.shape
    last = min(axis for axis, matrix in enumerate(matrices) if matrix is not None)
    result = rows
    after = 1
    # The last axis first: it reads strided rows as they are, the others need merged columns.
    for axis in reversed(range(len(grid))):
        matrix = matrices[axis]
        if matrix is not None:
            batch = count * length // (grid[axis] * after)
            columns = result.reshape(batch, grid[axis], after * width)
            repeated = matrix.expand(batch, *matrix.shape)
            out = None
            if into is not None and axis == last:
                out = into.view(columns.shape)
            elif buffers is not None:
                if axis not in buffers:
                    buffers[axis] = torch.empty(columns.shape, dtype=rows.dtype)
                out = buffers[axis]
            if axis == last and mix != 1:
                # Mixing inside the product saves a pass over memory.
                original = rows.reshape(columns.shape)
                result = torch.baddbmm(
                    original, repeated, columns, beta=1 - mix, alpha=mix, out=out
                )
            else:
                result = torch.bmm(repeated, columns, out=out)
        after *= grid[axis]
    return result
