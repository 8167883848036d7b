"""Blocks of a page as its templates take them: everything formatted, pictures embedded."""

from __future__ import annotations

__all__ = ["BlockViews", "View"]

import itertools
import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from PIL import Image

from .document import Block
from .number import Number, choose_decimals, format_number
from .picture_data import SMALL, EmbeddedPicture, embed
from .picture_grid import Cell, PictureGrid
from .plot import Plot
from .svg import page_svg
from .table import Column, Table, Value
from .table_text import table_text
from .text import plain_text
from .verdict import Verdict

#: What a template takes.
View: TypeAlias = dict[str, Any]

FORMATS = (("csv", "CSV"), ("markdown", "Markdown"), ("latex", "LaTeX"))


class BlockViews:
    """The blocks of one page, numbered, with its pictures, each embedded once.

    Args:
        limit: Pixels of the longest side that larger pictures are reduced to.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = itertools.count(1)
        self._embedded: dict[object, tuple[int, EmbeddedPicture]] = {}
        self._places: dict[str, int] = {}
        self.grids = 0

    @property
    def pictures(self) -> list[str]:
        """The pictures as data URIs, in the order of their numbers."""
        return list(self._places)

    def view(self, block: Block) -> View:
        """One block."""
        if isinstance(block, Verdict):
            return _verdict_view(block)
        number = next(self._count)
        if isinstance(block, Table):
            return _table_view(block, f"_table-{number}")
        if isinstance(block, Plot):
            return _plot_view(block, number)
        self.grids += 1
        return self._grid_view(block, f"_grid-{number}")

    def _grid_view(self, grid: PictureGrid, name: str) -> View:
        axes = grid.axes
        names = list(axes)
        places = {grid.place(cell.axes): number for number, cell in enumerate(grid.cells)}
        cells = [self._cell_view(cell) for cell in grid.cells]
        apart: dict[int, int] = {}  # baselines that are not in the grid, by their identity
        for view, cell in zip(list(cells), grid.cells, strict=True):
            view["at"] = [axes[axis].index(cell.axes[axis]) for axis in names]
            if isinstance(cell.baseline, Cell):
                if id(cell.baseline) not in apart:
                    apart[id(cell.baseline)] = len(cells)
                    cells.append(self._cell_view(cell.baseline))
                view["baseline"] = apart[id(cell.baseline)]
            elif isinstance(cell.baseline, Mapping):
                found = places[grid.place({**cell.axes, **cell.baseline})]
                view["baseline"] = None if grid.cells[found] is cell else found
        data = {
            "title": grid.title,
            "axes": [{"name": axis, "values": values} for axis, values in axes.items()],
            "rows": None if grid.rows is None else names.index(grid.rows),
            "columns": None if grid.columns is None else names.index(grid.columns),
            "small": all(max(cell["size"]) <= SMALL for cell in cells),
            "cells": cells,
        }
        return {
            "kind": "grid",
            "id": name,
            "title": grid.title,
            "caption": grid.caption,
            "json": script_json(data),
        }

    def _cell_view(self, cell: Cell) -> View:
        number, embedded = self._embed(cell.picture)
        return {
            "at": None,
            "picture": number,
            "size": embedded.size,
            "original": embedded.original,
            "axes": list(cell.axes.items()),
            "settings": [[key, _setting(value)] for key, value in cell.settings.items()],
            "label": cell.label,
            "baseline": None,
        }

    def _embed(self, picture: Any) -> tuple[int, EmbeddedPicture]:
        key: object = id(picture) if isinstance(picture, Image.Image) else str(picture)
        if key not in self._embedded:
            embedded = embed(picture, self._limit)
            place = self._places.setdefault(embedded.uri, len(self._places))
            self._embedded[key] = place, embedded
        return self._embedded[key]


def script_json(data: object) -> Any:
    """JSON for a script element, which no text inside can end."""
    from markupsafe import Markup  # noqa: PLC0415 - comes with Jinja2, an extra

    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _verdict_view(verdict: Verdict) -> View:
    number = verdict.interval
    return {
        "kind": "verdict",
        **{name: getattr(verdict, name) for name in ("claim", "source", "verdict", "because")},
        "measure": number.kind if number else "",
        "number": number and _number_view(number, choose_decimals([number])),
    }


def _plot_view(plot: Plot, number: int) -> View:
    from markupsafe import Markup  # noqa: PLC0415 - comes with Jinja2, an extra

    description = plot.description or plain_text(plot.caption)
    return {
        "kind": "plot",
        "svg": Markup(page_svg(plot.svg, f"_plot-{number}-", description)),
        "caption": plot.caption,
        "table": None if plot.data is None else _table_view(plot.data, f"_table-{number}"),
    }


def _table_view(table: Table, name: str) -> View:
    best = table.best()
    places = range(len(table.columns))
    decimals = [table.decimals(place) for place in places]
    numeric = [table.is_numeric(place) for place in places]

    def cell(row: int, place: int) -> View:
        value = table.rows[row][place]
        return {
            **_value_view(value, decimals[place]),
            "best": (row, place) in best,
            "numeric": numeric[place],
        }

    texts = {}
    for form, _ in FORMATS:
        text = table_text(table, form)
        texts[form] = {"head": text.head, "groups": text.groups, "foot": text.foot}
    return {
        "kind": "table",
        "id": name,
        "caption": table.caption,
        "note": table.note,
        "heads": _head_groups(table.columns),
        "columns": [
            {**vars(column), "kind": column.kind * (column.kind != column.name), "numeric": right}
            for column, right in zip(table.columns, numeric, strict=True)
        ],
        "groups": [
            {"name": heading, "rows": [[cell(row, place) for place in places] for row in rows]}
            for heading, rows in table.grouped_rows()
        ],
        "formats": FORMATS,
        "json": script_json(texts),
    }


def _head_groups(columns: Any) -> list[View]:
    """What stands over the heads of columns; nothing if no column has a group."""
    if not any(column.group for column in columns):
        return []
    return [
        {"name": name, "width": len(list(members))}
        for name, members in itertools.groupby(columns, key=_group_of)
    ]


def _group_of(column: Column) -> str:
    return column.group


def _value_view(value: Value, decimals: int) -> View:
    if isinstance(value, Number):
        key = repr(value.value).replace("inf", "Infinity")  # as JavaScript reads it
        return {**_number_view(value, decimals), "key": key}
    if value is None:
        return {"text": "–", "interval": "", "key": None}
    return {"text": str(value), "interval": "", "key": str(value)}


def _number_view(number: Number, decimals: int) -> View:
    def written(value: float) -> str:
        return format_number(value, decimals).replace("-", "−")

    interval = f"[{', '.join(map(written, number.interval))}]" if number.interval else ""
    return {"text": written(number.value), "interval": interval}


def _setting(value: object) -> str:
    """A setting as text: whole numbers without a point, an infinite one as its sign."""
    if isinstance(value, float):
        return format_number(value, 0) if math.isinf(value) else repr(value).removesuffix(".0")
    return "none" if value is None else str(value)
