"""Where in the latents the tokens of a layer are, from how they answer to marks."""

from __future__ import annotations

__all__ = ["Answer", "Place", "TokenGrid", "grid_of_answers", "marked_places"]

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

#: A place in latents.
Place: TypeAlias = tuple[int, ...]

# How much of an answer must be next to its place, of all that could be there more than by chance.
_CLEARLY = 0.1
_UNCLEAR = "does not answer to places of the latents as tokens in a grid would"


@dataclass(frozen=True)
class TokenGrid:
    """How the tokens of a layer lie.

    Args:
        patch: The size of a token in latents.
        before: Whether other tokens come before the image's.
        others: How many there were of them.
    """

    patch: tuple[int, ...]
    before: bool
    others: int


@dataclass(frozen=True)
class Answer:
    """How the tokens of a layer answer to a mark.

    Args:
        most: Those whose queries or keys changed most, of all rows.
        shares: How much of all change each has, `(T,)`, the mean of rows, queries and keys.
    """

    most: frozenset[int]
    shares: Tensor


def marked_places(sizes: tuple[int, ...]) -> list[Place]:
    """The origin, the end of every axis, the end of all, and some in between."""
    axes = range(len(sizes))
    ends = [
        tuple([size - 1 if axis == end else 0 for axis, size in enumerate(sizes)]) for end in axes
    ]
    inside = [
        tuple([size * part // 4 for size, part in zip(sizes, parts[-len(sizes) :], strict=True)])
        for parts in ((2, 2, 2), (1, 1, 3), (3, 3, 1))
    ]
    last = tuple([size - 1 for size in sizes])
    return list(dict.fromkeys([(0,) * len(sizes), *ends, last, *inside]))


def grid_of_answers(
    answers: Mapping[Place, Answer | None], sizes: tuple[int, ...], count: int
) -> TokenGrid | str:
    """How the tokens lie that answer to places of latents, or why that is not known.

    Args:
        answers: What each place did.
        sizes: The sizes of the latents.
        count: How many tokens there are.
    """
    known = {place: answer for place, answer in answers.items() if answer is not None}
    if len(known) < len(answers):
        return _UNCLEAR
    if all(len(answer.most) == 1 for answer in known.values()):
        single = {place: min(answer.most) for place, answer in known.items()}
        found = _of_patches(single, sizes, count)
        if found is not None:
            return found
    return _of_maps(known, sizes, count)


def _of_patches(
    answers: Mapping[Place, int], sizes: tuple[int, ...], count: int
) -> TokenGrid | str | None:
    """Where every place is in one token: the corners tell the grid, and the others check it."""
    start = answers[(0,) * len(sizes)]
    counts: list[int] = []
    for axis in reversed(range(len(sizes))):
        end = tuple([size - 1 if other == axis else 0 for other, size in enumerate(sizes)])
        steps, left = divmod(answers[end] - start, math.prod(counts))
        if left or steps < 0 or sizes[axis] % (steps + 1):
            return None
        counts.insert(0, steps + 1)
    patch = tuple([size // number for size, number in zip(sizes, counts, strict=True)])
    for place, answer in answers.items():
        if answer != start + _token(place, patch, counts):
            return None
    after = count - start - math.prod(counts)
    if math.prod(counts) < 2 or after < 0:
        return None
    if start and after:
        return "has other tokens before and after the image's"
    return TokenGrid(patch, before=start > 0, others=start + after)


def _token(place: Place, patch: tuple[int, ...], counts: Sequence[int]) -> int:
    """The number of the token that a place is in, row by row."""
    number = 0
    for at, side, size in zip(place, patch, counts, strict=True):
        number = number * size + at // side
    return number


def _of_maps(
    answers: Mapping[Place, Answer], sizes: tuple[int, ...], count: int
) -> TokenGrid | str:
    """Where convolutions spread a mark: a map of all tokens, if answers are nearby in only one."""
    rows_first = tuple(range(len(sizes)))
    fits: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    sides = [[side for side in range(1, size + 1) if size % side == 0] for size in sizes]
    for patch in itertools.product(*sides):
        counts = [size // side for size, side in zip(sizes, patch, strict=True)]
        if count > 1 and math.prod(counts) == count:
            for order in {rows_first, rows_first[::-1]}:
                shares = [_share(at, one, patch, order, counts) for at, one in answers.items()]
                fits[patch, order] = min(shares)
    if not fits:
        return _UNCLEAR
    best, *others = sorted(fits, key=lambda fit: -fits[fit])
    if best[1] != rows_first or fits[best] < _CLEARLY:
        return _UNCLEAR
    if any(fits[other] > fits[best] / 2 for other in others):
        return _UNCLEAR
    return TokenGrid(best[0], before=False, others=0)


def _share(
    place: Place,
    answer: Answer,
    patch: tuple[int, ...],
    order: tuple[int, ...],
    counts: Sequence[int],
) -> float:
    """How much of an answer is next to its place, with axes in this order: 0 by chance, 1 all."""
    shares = answer.shares.reshape([counts[axis] for axis in order])
    around = shares = shares.permute([order.index(axis) for axis in range(len(order))])
    for axis, (at, side) in enumerate(zip(place, patch, strict=True)):
        first, last = max(at // side - 1, 0), min(at // side + 1, counts[axis] - 1)
        around = around.narrow(axis, first, last - first + 1)
    chance = around.numel() / shares.numel()
    return (float(around.sum()) - chance) / (1 - chance) if chance < 1 else 0.0
