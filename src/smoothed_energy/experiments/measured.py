"""What was measured of an experiment's pictures: by row, with intervals, and paired differences."""

from __future__ import annotations

__all__ = ["Measured", "SetColumn"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from ..evaluation import Resampling
from .row import UNGUIDED, Row

if TYPE_CHECKING:
    from ..report.page import Number, Plot, Table

_Better: TypeAlias = Literal["lower", "higher"] | None


@dataclass(frozen=True)
class SetColumn:
    """A metric of an experiment.

    Args:
        name: Its name.
        title: What the head of its column says.
        kind: Its network and resize, or its formula.
        better: Whether lower or higher is better; None where neither is in itself.
        unit: Of its numbers.
        bounds: What they can be.
    """

    name: str
    title: str
    kind: str
    better: _Better = None
    unit: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)


@dataclass
class Measured:
    """The numbers of an experiment.

    Args:
        rows: Its rows.
        count: How many samples each has.
        columns: What was measured.
        resampling: How intervals were made.
        against: What sets were compared with; empty if they were not.
        wholes: The number of each row and metric.
        halves: The numbers of random halves of its samples, the same halves in all rows.
    """

    rows: Sequence[Row]
    count: int
    columns: Sequence[SetColumn]
    resampling: Resampling
    against: str
    wholes: Mapping[tuple[str, str], float] = field(default_factory=dict)
    halves: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)

    def column(self, metric: str) -> SetColumn:
        """The column of a metric.

        Raises:
            ValueError: If it was not measured.
        """
        for column in self.columns:
            if column.name == metric:
                return column
        raise ValueError(
            f"{metric!r} was not measured; measured were "
            f"{', '.join(column.name for column in self.columns)}"
        )

    def number(self, label: str, metric: str) -> Number | None:
        """The number of a row with its interval; None where it has none, as the distance to itself.

        Args:
            label: The label of the row.
            metric: The name of the metric.
        """
        whole = self.wholes.get((label, metric))
        if whole is None or math.isnan(whole):
            return None
        found = self._around(whole, self.halves.get((label, metric)), metric)
        if found.low is None or found.high is None:
            return found
        least, most = self.column(metric).bounds
        return replace(found, low=max(found.low, least), high=min(found.high, most))

    def difference(self, label: str, other: str, metric: str) -> Number:
        """The number of one row minus that of another, with a paired interval.

        Raises:
            ValueError: If one of them was not measured.
        """
        for name in (label, other):
            if (name, metric) not in self.wholes:
                raise ValueError(f"{metric} of the row {name!r} was not measured")
        whole = self.wholes[label, metric] - self.wholes[other, metric]
        first, second = self.halves.get((label, metric)), self.halves.get((other, metric))
        halves = None if first is None or second is None else first - second
        column = self.column(metric)
        # It may stand alone, beside a verdict.
        return replace(
            self._around(whole, halves, metric), kind=f"{column.title}, {column.kind}, paired"
        )

    def _around(self, whole: float, halves: Tensor | None, metric: str) -> Number:
        from ..report.page import Number  # noqa: PLC0415 - only when a page is made

        kind = self.column(metric).kind
        if halves is None or not torch.isfinite(halves).all():
            return Number(whole, kind=kind)
        low, high = self.resampling.ends(whole, halves.tolist(), self.count)
        return Number(whole, low, high, kind=kind)

    def table(self, caption: str, *, compared: bool = True) -> Table:
        """All numbers, a line for each row.

        Args:
            caption: What the table shows.
            compared: Whether the first metric has its difference to the unguided row beside it.
        """
        from ..report.page import Column, Table  # noqa: PLC0415 - only when a page is made

        main = self.columns[0]
        labels = {row.label for row in self.rows}
        compared = compared and any(row.baseline in labels for row in self.rows)
        columns = [Column("row")]
        for column in self.columns:
            columns.append(
                Column(column.title, kind=column.kind, better=column.better, unit=column.unit)
            )
            if column is main and compared:
                columns.append(Column("difference to unguided", kind=f"{main.kind}, paired"))
        values = []
        for row in self.rows:
            line: list[str | Number | None] = [row.label]
            for column in self.columns:
                line.append(self.number(row.label, column.name))
                if column is main and compared:
                    line.append(self._to_unguided(row))
            values.append(line)
        return Table(columns, values, caption, self.note)

    def _to_unguided(self, row: Row) -> Number | None:
        from ..report.page import Number  # noqa: PLC0415 - only when a page is made

        metric = self.columns[0].name
        if row.label == row.baseline or (row.baseline, metric) not in self.wholes:
            return None
        found = self.difference(row.label, row.baseline, metric)
        return Number(found.value, found.low, found.high)

    @property
    def note(self) -> str:
        """What a reader has to know of the numbers."""
        seeds = f"{self.count} samples a row, the same seeds in all rows"
        if not self.against:
            return f"Means over the pictures above: {seeds}."
        return f"{seeds}; sets compared with {self.against}. In brackets: {self.resampling.text}."

    def plot_over(
        self, rows: Sequence[Row], across: str, ticks: Sequence[str], caption: str
    ) -> Plot:
        """The first metric over some rows, with the unguided one as a guide.

        Args:
            rows: The rows.
            across: What differs between them.
            ticks: What it is in each.
            caption: What is to be seen.
        """
        from ..report.page import Line, Number, PlotAxes, line_plot  # noqa: PLC0415 - for a page

        column = self.columns[0]
        numbers = [self.number(row.label, column.name) for row in rows]
        present = [Number(n.value, n.low, n.high) for n in numbers if n is not None]
        guide = self.wholes.get((UNGUIDED.label, column.name))
        axes = PlotAxes(
            across,
            f"{column.title}, {column.kind}",
            guides={} if guide is None else {"unguided": guide},
        )
        return line_plot([Line(column.title, list(ticks), present)], axes, caption)

    def trade_off(self, curves: Mapping[str, Sequence[Row]], metric: str, caption: str) -> Plot:
        """The first metric over another one, a curve for each sequence of rows."""
        from ..report.page import Number, PlotAxes, Points, point_plot  # noqa: PLC0415 - for a page

        across, up = self.column(metric), self.columns[0]

        def numbers(rows: Sequence[Row], name: str) -> list[float | Number]:
            found = [self.number(row.label, name) for row in rows]
            return [Number(n.value) for n in found if n is not None]

        points = [
            Points(name, numbers(rows, metric), numbers(rows, up.name), joined=True)
            for name, rows in curves.items()
        ]
        axes = PlotAxes(f"{across.title}, {across.kind}", f"{up.title}, {up.kind}")
        return point_plot(points, axes, caption)

    def to_json(self) -> list[dict[str, object]]:
        """All numbers, one entry for each row and metric."""
        found: list[dict[str, object]] = []
        for row in self.rows:
            for column in self.columns:
                number = self.number(row.label, column.name)
                if number is None:
                    continue
                found.append(
                    {
                        "row": row.label,
                        "guidance": list(row.guidance),
                        "cfg": row.cfg,
                        "scheduler": row.scheduler,
                        "metric": column.name,
                        "kind": column.kind,
                        "value": number.value,
                        "low": number.low,
                        "high": number.high,
                        "samples": self.count,
                    }
                )
        return found
