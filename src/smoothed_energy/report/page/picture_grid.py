"""Grids of pictures whose axes the reader assigns to rows and columns."""

from __future__ import annotations

__all__ = ["Cell", "PictureGrid"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from ...settings.conversion import set_field

#: A picture, or the file that it is in.
Picture: TypeAlias = "Image.Image | Path | str"


@dataclass(frozen=True, eq=False)
class Cell:
    """A picture of a grid, with what it was made with.

    Args:
        picture: The picture, or its file.
        axes: Where it stands: names of axes to their values, as text, such as
            ``{"scale": "3", "layers": "mid", "seed": "0"}``.
        settings: All else that the reader may want to know, shown with the picture.
        baseline: The picture that it is compared with, mostly the unguided one of its seed: a cell
            that need not be in the grid, or what to change of `axes` to find it there, such as
            ``{"scale": "0"}``. None: there is none.
        label: Its name in a comparison, for a baseline that is not in the grid.
    """

    picture: Picture
    axes: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    baseline: Cell | Mapping[str, str] | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.picture, (Image.Image, Path, str)):
            raise TypeError(f"picture={self.picture!r}: expected a PIL image or the path of one")
        _check_texts(self.axes)
        set_field(self, "axes", dict(self.axes))
        set_field(self, "settings", dict(self.settings))
        if isinstance(self.baseline, Cell):
            if self.baseline.baseline is not None:
                raise ValueError("a baseline has a baseline of its own; expected a cell without")
        elif self.baseline is not None:
            _check_texts(self.baseline)
            unknown = sorted(self.baseline.keys() - self.axes.keys())
            if unknown:
                raise ValueError(
                    f"baseline={dict(self.baseline)!r}: the cell has no axis {unknown[0]!r}; it "
                    f"has {', '.join(self.axes) or 'none'}"
                )
            set_field(self, "baseline", dict(self.baseline))


@dataclass(frozen=True)
class PictureGrid:
    """Pictures along axes, of which one is the rows and one the columns.

    The reader assigns axes to rows and columns, and chooses one value of every other axis.

    Args:
        cells: The pictures, all with the same axes and no two at one place. Values of an axis keep
            the order in which they first appear. Places may be empty.
        title: A short name.
        rows: The axis that the rows are at first. None: there is one row, which wraps.
        columns: The axis that the columns are at first. None: a single column.
        caption: What is to be seen; inline text as in `Section`.

    Raises:
        ValueError: If there are no cells, their axes differ, two are at one place, a baseline is
            not in the grid, or rows and columns are not two of the axes.
    """

    cells: Sequence[Cell]
    title: str
    rows: str | None = None
    columns: str | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        cells = tuple(self.cells)
        if not cells:
            raise ValueError(f"the grid {self.title!r} has no cells")
        set_field(self, "cells", cells)
        names = set(cells[0].axes)
        for cell in cells:
            if set(cell.axes) != names:
                raise ValueError(
                    f"the grid {self.title!r} has cells with the axes {sorted(names)} and "
                    f"{sorted(cell.axes)}; expected the same ones everywhere"
                )
        self._check_assignment(names)
        places: set[tuple[str, ...]] = set()
        for cell in cells:
            place = self.place(cell.axes)
            if place in places:
                raise ValueError(f"the grid {self.title!r} has two cells at {dict(cell.axes)!r}")
            places.add(place)
        for cell in cells:
            if isinstance(cell.baseline, Mapping):
                axes = {**cell.axes, **cell.baseline}
                if self.place(axes) not in places:
                    raise ValueError(
                        f"the grid {self.title!r} has no cell at {axes!r}, the baseline of the one "
                        f"at {dict(cell.axes)!r}"
                    )

    @property
    def axes(self) -> dict[str, list[str]]:
        """The axes and their values, in the order of the cells."""
        return {
            name: list(dict.fromkeys(cell.axes[name] for cell in self.cells))
            for name in self.cells[0].axes
        }

    def place(self, axes: Mapping[str, str]) -> tuple[str, ...]:
        """Values of axes in the order of the grid's axes."""
        return tuple(axes[name] for name in self.cells[0].axes)

    def _check_assignment(self, names: set[str]) -> None:
        for role, name in (("rows", self.rows), ("columns", self.columns)):
            if name is not None and name not in names:
                raise ValueError(
                    f"{role}={name!r}: the grid {self.title!r} has no such axis; it has "
                    f"{', '.join(self.cells[0].axes) or 'none'}"
                )
        if self.rows is not None and self.rows == self.columns:
            raise ValueError(f"rows and columns are both {self.rows!r}; expected two axes")


def _check_texts(axes: Mapping[str, str]) -> None:
    for name, value in axes.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"the axis {name!r} has the value {value!r}; expected texts")
