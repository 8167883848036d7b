"""Seeds as text: numbers and ranges such as `0-15,20`."""

from __future__ import annotations

__all__ = ["MOST_SEEDS", "read_seeds", "seeds_text"]

import re
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise

from ..settings.checks import check_integer

_PART = re.compile(r"\s*(\d{1,20})\s*(?:-\s*(\d{1,20})\s*)?")

#: Tables keep seeds as 64-bit integers.
_LIMIT = 2**63
#: A plan holds all of them.
MOST_SEEDS = 1_000_000
_EXPECTED = "expected numbers from 0 and ranges such as 0-15,20, both ends included"


def read_seeds(value: object) -> tuple[int, ...]:
    """Seeds in their order, each once.

    Args:
        value: A text such as `"0-15,20"`, a number, or a sequence of numbers and texts.

    Raises:
        ValueError: If it is none of these, or a seed comes twice.
    """
    seeds = tuple(islice(_seeds(value), MOST_SEEDS + 1))
    if len(seeds) > MOST_SEEDS:
        raise ValueError(f"there are more than {MOST_SEEDS} seeds; expected at most as many")
    if not seeds:
        raise ValueError(f"seeds={value!r} are none; {_EXPECTED}")
    if len({*seeds}) < len(seeds):
        seen: set[int] = set()
        twice = next(seed for seed in seeds if seed in seen or seen.add(seed))  # type: ignore[func-returns-value]
        raise ValueError(f"the seed {twice} comes twice; expected each once")
    return seeds


def _seeds(value: object) -> Iterable[int]:
    if isinstance(value, str):
        for part in value.split(","):
            match = _PART.fullmatch(part)
            if match is None:
                raise ValueError(f"seeds={value!r}: {part.strip()!r} is no seed; {_EXPECTED}")
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise ValueError(f"seeds={value!r}: the range {part.strip()!r} is reversed")
            _check(last)
            yield from range(first, last + 1)
    elif isinstance(value, (Sequence, range)):
        for item in value:
            yield from _seeds(item)
    else:
        yield _check(check_integer("seeds", value))


def _check(seed: int) -> int:
    if not 0 <= seed < _LIMIT:
        raise ValueError(f"the seed {seed} is not in [0, 2^63); {_EXPECTED}")
    return seed


def seeds_text(seeds: Sequence[int]) -> str:
    """The text that `read_seeds` reads, with ranges where seeds count up."""
    if not seeds:
        return ""
    starts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(seeds)) if b != a + 1)]
    parts = []
    for start, stop in zip(starts, [*starts[1:], len(seeds)], strict=True):
        first, last = seeds[start], seeds[stop - 1]
        parts.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(parts)
