r"""Combinations as text.

| text | value | what it does |
|---|---|---|
| `"rescale:0.7"` | `Rescale(0.7)` | tames the contrast of the whole result |
| `"rescale:0.7:partial"` | `Rescale(0.7, "partial")` | ... of $c + \delta$ alone |
| `"project"`, `"project:0.5"` | `Projection(0.5)` | drops (half of) what is parallel to $s$ |
| `"fuse"` | `SaliencyFusion()` | everywhere the more salient of $\delta$ and $g\,(c - u)$ |
"""

from __future__ import annotations

__all__ = ["as_combinations", "combinations_text"]

import re
from collections.abc import Sequence

from .combinations import Projection, Rescale
from .combine import Combination
from .saliency_fusion import SaliencyFusion

# The + between two combinations, not the one in 1e+20.
_PLUS = re.compile(r"(?<![\d.]e)\+", re.IGNORECASE)


def as_combinations(
    value: Combination | str | Sequence[Combination | str],
) -> tuple[Combination, ...]:
    """Combinations from one, several, or texts joined by `+`.

    Raises:
        ValueError: If a text is not understood, or `fuse` comes twice.
    """
    found = _flattened(value)
    if sum([one.replaces_cfg for one in found]) > 1:
        raise ValueError(
            f"combine={combinations_text(found)!r} fuses twice, and CFG can be replaced only once; "
            "expected fuse at most once"
        )
    return found


def _flattened(value: Combination | str | Sequence[Combination | str]) -> tuple[Combination, ...]:
    if isinstance(value, Combination):
        return (value,)
    if isinstance(value, str):
        return tuple(_parse(part.strip()) for part in _PLUS.split(value)) if value.strip() else ()
    return tuple(found for item in value for found in _flattened(item))


def combinations_text(combinations: Sequence[Combination]) -> str:
    """The text of several, `""` for none."""
    return "+".join(map(str, combinations))


def _parse(text: str) -> Combination:
    kind, *rest = text.split(":")
    try:
        if kind == "rescale" and 1 <= len(rest) <= 2:
            return Rescale(float(rest[0]), *rest[1:])  # type: ignore[arg-type]  # checked there
        if kind == "project" and len(rest) <= 1:
            return Projection(*map(float, rest))
        if kind == "fuse" and len(rest) <= 1:
            return SaliencyFusion(*map(float, rest))
        raise ValueError("unknown")
    except ValueError as error:
        raise ValueError(
            f"combine={text!r} is not understood ({error}); expected rescale:AMOUNT, "
            "rescale:AMOUNT:partial, project, project:PARALLEL or fuse, joined by +"
        ) from None
