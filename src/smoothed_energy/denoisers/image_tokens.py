"""Which of a layer's tokens are the image's, and how they lie."""

from __future__ import annotations

__all__ = ["GridError", "ImageTokens", "TokensWithoutGrid", "rows_in_order", "unknown_grid"]

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override


class GridError(ValueError):
    """A number of tokens that no level of the denoiser has, or sizes that make no grid."""


@dataclass(frozen=True)
class ImageTokens:
    """The image's tokens in the sequence of a layer.

    Args:
        grid: Their layout, `(H, W)` or `(F, H, W)`, row-major.
        start: The number of tokens before the first of them: one number, or one for each row of the
            batch where prompts of different lengths come before.
        folded: Which axes lie in the batch, after its rows, and not in the sequence:
            `"frames"` where every frame attends to itself, so that the batch is `(B F)` and the
            sequence `(H W)`; `"places"` where every place attends over time, so that they are
            `(B H W)` and `F`.
    """

    grid: tuple[int, ...]
    start: int | tuple[int, ...] = 0
    folded: Literal["frames", "places"] | None = None

    @property
    def count(self) -> int:
        """How many there are in the sequence."""
        if self.folded is None:
            return math.prod(self.grid)
        return self.grid[0] if self.folded == "places" else math.prod(self.grid[1:])

    @property
    def grids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The grid of the tokens in one sequence, and that of the sequences of one sample."""
        if self.folded is None:
            return self.grid, ()
        of_frames, of_places = (self.grid[0], 1, 1), (1, *self.grid[1:])
        return (of_places, of_frames) if self.folded == "frames" else (of_frames, of_places)

    @property
    def slice(self) -> slice:
        """Their place in the sequence, if it is the same in all rows."""
        assert isinstance(self.start, int)
        return slice(self.start, self.start + self.count)

    def by_start(self, batch: int) -> Iterator[tuple[list[int], ImageTokens]]:
        """Rows of the batch in which they have the same place, and that place.

        Args:
            batch: The number of rows. If it is a multiple of the number of starts, these are
                repeated: all of them, or where axes are folded into the rows, each by itself.

        Raises:
            GridError: If it is no multiple.
        """
        starts = (self.start,) if isinstance(self.start, int) else self.start
        times, left = divmod(batch, len(starts))
        if left or not times:
            raise GridError(f"{len(starts)} places of image tokens in a batch of {batch} rows")
        if self.folded is None:
            starts *= times
        else:
            starts = tuple(start for start in starts for _ in range(times))
        for start in dict.fromkeys(starts):
            rows = [row for row, other in enumerate(starts) if other == start]
            yield rows, replace(self, start=start)

    def unfold(self, tokens: Tensor) -> Tensor:
        """All the image's tokens in one sequence: `(rows, heads, F H W, d)`.

        Args:
            tokens: The layer's, `(batch, heads, count, d)`.

        Raises:
            GridError: If the batch does not hold all sequences of its samples.
        """
        if self.folded is None:
            return tokens
        _, others = self.grids
        if tokens.shape[0] % math.prod(others):
            raise GridError(
                f"{self.folded} of a grid {self.grid} are folded into a batch of {tokens.shape[0]} "
                f"rows, which is no multiple of {math.prod(others)}, so they can't be mixed"
            )
        frames, places = self.grid[0], math.prod(self.grid[1:])
        heads, width = tokens.shape[1], tokens.shape[-1]
        if self.folded == "frames":
            apart = tokens.reshape(-1, frames, heads, places, width).transpose(1, 2)
        else:
            apart = tokens.reshape(-1, places, heads, frames, width).permute(0, 2, 3, 1, 4)
        return apart.flatten(2, 3)

    def fold(self, tokens: Tensor) -> Tensor:
        """The inverse of `unfold`."""
        if self.folded is None:
            return tokens
        batch, heads, _, width = tokens.shape
        apart = tokens.reshape(batch, heads, self.grid[0], math.prod(self.grid[1:]), width)
        if self.folded == "frames":
            return apart.transpose(1, 2).flatten(0, 1)
        return apart.permute(0, 3, 1, 2, 4).flatten(0, 1)


class TokensWithoutGrid(ImageTokens):
    """The image's tokens, the same in all rows, of which nobody knows how they lie.

    They are enough for what needs no neighbours. Whoever asks for their grid gets an error.

    Args:
        count: How many there are in the sequence: all of it.
        reason: The message of that error.
    """

    def __init__(self, count: int, reason: str) -> None:
        for name, value in {"start": 0, "folded": None, "_count": count, "_why": reason}.items():
            object.__setattr__(self, name, value)

    @property
    def grid(self) -> tuple[int, ...]:
        """Not known.

        Raises:
            GridError: Always.
        """
        raise GridError(self._why)

    @property
    @override
    def count(self) -> int:
        return self._count

    @override
    def by_start(self, batch: int) -> Iterator[tuple[list[int], ImageTokens]]:
        yield list(range(batch)), self

    def __repr__(self) -> str:
        return f"TokensWithoutGrid({self._count}, {self._why!r})"

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    _count: int
    _why: str


def unknown_grid(layer: str, count: int, reason: str) -> TokensWithoutGrid:
    """Tokens whose grid is not known, for a reason.

    Args:
        layer: The layer's name.
        count: How many tokens it attends with.
        reason: What they were expected to be.
    """
    return TokensWithoutGrid(
        count,
        f"{layer} attends with {count} tokens, but {reason}; something merges, drops or tiles "
        "tokens (ToMe, HyperTile), so how they lie is not known; expected a denoiser without it, "
        "other layers, or a guidance that needs no grid (PAG, ERG, TPG)",
    )


def tokens_of_map(layer: str, count: int, size: tuple[int, int] | None) -> ImageTokens:
    """The tokens that are made of a feature map, one of each place.

    Args:
        layer: The layer's name.
        count: How many tokens it attends with.
        size: Height and width of the map; None: none was seen.
    """
    if size is None:
        return unknown_grid(layer, count, "no feature map was seen that they were made of")
    if math.prod(size) != count:
        return unknown_grid(layer, count, "its feature map is {}x{}".format(*size))
    return ImageTokens(size)


def rows_in_order(parts: list[tuple[list[int], Tensor]]) -> Tensor:
    """A batch put together from parts of its rows."""
    if len(parts) == 1:
        return parts[0][1]
    order = torch.tensor([row for rows, _ in parts for row in rows])
    stacked = torch.cat([part for _, part in parts])
    return stacked[order.argsort().to(stacked.device)]
