"""Some rows of a batch, and of everything that has them."""

from __future__ import annotations

__all__ = ["Rows"]

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of a batch.

    Args:
        start: The first of them.
        stop: The one after the last.
        batch: How many rows the batch has.
    """

    start: int
    stop: int
    batch: int

    @property
    def is_all(self) -> bool:
        """Whether they are all rows of the batch."""
        return self.start == 0 and self.stop == self.batch

    def fit(self, value: Tensor) -> bool:
        """Whether a tensor has a row, or several one after the other, for each of the batch."""
        return value.ndim > 0 and value.shape[0] % self.batch == 0

    def of(self, value: Tensor) -> Tensor:
        """These rows of a tensor `(batch n, *)`: a view of `((stop - start) n, *)`.

        Some modules fold more into the first dimension (frames, heads), the batch outermost.
        """
        fold = value.shape[0] // self.batch
        return value[self.start * fold : self.stop * fold]
