"""Inner products and norms of the predictions of each sample, over all its numbers."""

from __future__ import annotations

__all__ = ["dot", "norm", "split"]

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """In double precision where the device has it."""
    return tensor.float() if tensor.device.type in ("mps", "npu") else tensor.double()


def dot(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of each sample, `(B, 1, ...)`, in double precision where there is one."""
    dims = tuple(range(1, one.ndim))
    return (wide(one) * wide(other)).sum(dim=dims, keepdim=True)


def norm(tensor: Tensor) -> Tensor:
    """The Euclidean norm of each sample, `(B, 1, ...)`."""
    return dot(tensor, tensor).sqrt()


def split(tensor: Tensor, onto: Tensor) -> tuple[Tensor, Tensor]:
    """The parts of a tensor along another one and orthogonal to it, sample by sample."""
    square = dot(onto, onto).clamp_min(torch.finfo(torch.float32).tiny)
    along = (dot(tensor, onto) / square * wide(onto)).to(tensor.dtype)
    return along, tensor - along
