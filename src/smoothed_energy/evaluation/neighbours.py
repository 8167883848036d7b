"""Nearest neighbours among features, block by block, so that memory stays bounded.

The manifold of a set is taken as the union of balls around its vectors, each as wide as the
distance to the k-th nearest of the others (Kynkaanniemi et al., 2019,
https://arxiv.org/abs/1904.06991).
"""

from __future__ import annotations

__all__ = ["NEIGHBOURS", "check_features", "distance_blocks", "radii"]

from collections.abc import Iterator

import torch
from torch import Tensor

#: Neighbours that a ball reaches, as in Naeem et al., 2020.
NEIGHBOURS = 5

#: Distances of a block: 64 MiB of float64.
_BLOCK = 1 << 23


def check_features(samples: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of features in float64.

    Raises:
        ValueError: If either has too few vectors for balls, or the dimensions differ.
    """
    for features in (samples, real):
        if features.ndim != 2 or len(features) <= NEIGHBOURS:
            raise ValueError(
                f"features have shape {tuple(features.shape)}; expected (N > {NEIGHBOURS}, D)"
            )
    if samples.shape[1] != real.shape[1]:
        raise ValueError(f"features of {samples.shape[1]} and {real.shape[1]} dimensions")
    return samples.double(), real.double()


def distance_blocks(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Euclidean distances of the rows of ``x`` to those of ``y``, some rows at a time."""
    rows = max(_BLOCK // len(y), 1)
    for part in torch.split(x, rows):
        yield torch.cdist(part, y)


def radii(x: Tensor) -> Tensor:
    """The distance of each vector to its k-th nearest other, ``(N,)``."""
    # The nearest of all is the vector itself.
    return torch.cat(
        [block.kthvalue(NEIGHBOURS + 1, dim=1).values for block in distance_blocks(x, x)]
    )
