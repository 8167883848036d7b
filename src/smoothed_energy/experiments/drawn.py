"""The pictures of an experiment, by row and by sample."""

from __future__ import annotations

__all__ = ["Drawn", "Sample"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .row import Row


@dataclass(frozen=True)
class Sample:
    """What all rows draw once: a prompt and a seed.

    Args:
        seed: The seed of the noise.
        prompt: The prompt; empty for none.
    """

    seed: int
    prompt: str = ""


@dataclass(frozen=True)
class Drawn:
    """Pictures of the same samples, drawn in several ways.

    Args:
        rows: The ways.
        samples: The samples, in the order of the pictures.
        paths: For the label of each row, a picture for each sample.
        facts: For the label of each row, what was measured while each was drawn.
    """

    rows: Sequence[Row]
    samples: Sequence[Sample]
    paths: Mapping[str, Sequence[Path]]
    facts: Mapping[str, Sequence[Mapping[str, Any]]]

    def row(self, label: str) -> Row:
        """The row of a label."""
        return next(row for row in self.rows if row.label == label)

    def without(self, label: str) -> Drawn:
        """The same without a row in the tables; its pictures stay, to be compared with."""
        rows = tuple(row for row in self.rows if row.label != label)
        return Drawn(rows, self.samples, self.paths, self.facts)
