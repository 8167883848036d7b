"""Tables whose columns hold text, or numbers of one kind with their intervals."""

from __future__ import annotations

__all__ = ["Column", "RowGroup", "Table", "Value"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...settings.checks import check_choice, check_count
from ...settings.conversion import set_field
from .number import DECIMALS_MOST, Number, choose_decimals

#: What a cell holds: text, a number, a number with its interval, or None where there is nothing.
Value: TypeAlias = "str | float | Number | None"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: What its head says.
        kind: What its numbers are: metric, extractor and resize, so that nobody compares what
            can't be compared. It stands under the name. A column of text has none; a column of
            numbers takes the kind of its numbers.
        unit: Of its numbers, such as ``"s"`` or ``"%"``.
        better: Whether ``"lower"`` or ``"higher"`` numbers are better, so that the best of every
            group of rows is marked. None: none is marked.
        decimals: How many its numbers have. Default: as many as their intervals justify.
        group: What it has in common with the columns beside it; stands over them once.

    Raises:
        ValueError: If it has no name, or ``better`` or ``decimals`` is something else.
    """

    name: str
    kind: str = ""
    unit: str = ""
    better: Literal["lower", "higher"] | None = None
    decimals: int | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError(f"name={self.name!r}: expected a name for the column")
        if self.better is not None:
            check_choice("better", self.better, ("lower", "higher"))
        if self.decimals is not None and check_count("decimals", self.decimals, 0) > DECIMALS_MOST:
            raise ValueError(f"decimals={self.decimals!r}: expected at most {DECIMALS_MOST}")


@dataclass(frozen=True)
class RowGroup:
    """Rows that belong together, under a heading. Rows are sorted, and the best found, within it.

    Args:
        name: The heading.
        rows: How many rows of the table it has, after those of the groups before.
    """

    name: str
    rows: int

    def __post_init__(self) -> None:
        set_field(self, "rows", check_count("rows", self.rows))


@dataclass(frozen=True)
class Table:
    """A table, to be sorted and copied.

    Args:
        columns: Its columns. The first one names the rows.
        rows: Its rows, with one value for each column.
        caption: What it shows.
        note: What the reader has to know of its numbers: samples, intervals, settings.
        groups: Groups of rows, which together have all rows. Default: no groups.

    Caption and note are inline text as in `Section`.

    Raises:
        ValueError: If there are no columns or rows, two columns of one name and group, a row of
            another length, text among numbers, numbers of different kinds in one column, or groups
            that don't add up to the rows.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    caption: str
    note: str = ""
    groups: Sequence[RowGroup] = ()

    def __post_init__(self) -> None:
        columns = tuple(self.columns)
        if not columns or not self.rows:
            raise ValueError("a table needs at least one column and one row")
        heads = [(column.group, column.name, column.kind) for column in columns]
        twice = [head for head in heads if heads.count(head) > 1]
        if twice:
            raise ValueError(f"two columns are named {twice[0][1]!r}; expected different names")
        for number, row in enumerate(self.rows):
            if len(row) != len(columns):
                raise ValueError(f"row {number} has {len(row)} values for {len(columns)} columns")
        groups = tuple(self.groups)
        total = sum(group.rows for group in groups)
        if groups and total != len(self.rows):
            raise ValueError(
                f"the groups have {total} rows together; the table has {len(self.rows)}"
            )
        rows = [[_as_value(value) for value in row] for row in self.rows]
        checked = [
            _checked(column, [row[place] for row in rows]) for place, column in enumerate(columns)
        ]
        set_field(self, "columns", tuple(checked))
        set_field(self, "rows", tuple(tuple(row) for row in rows))
        set_field(self, "groups", groups)

    def numbers(self, place: int) -> list[Number]:
        """The numbers of a column, by its place."""
        return [row[place] for row in self.rows if isinstance(row[place], Number)]  # type: ignore[misc]

    def is_numeric(self, place: int) -> bool:
        """Whether a column holds numbers."""
        return bool(self.numbers(place))

    def decimals(self, place: int) -> int:
        """How many decimals the numbers of a column have; -1 for an exponent."""
        decimals = self.columns[place].decimals
        return choose_decimals(self.numbers(place)) if decimals is None else decimals

    def grouped_rows(self) -> list[tuple[str, list[int]]]:
        """The groups in order: heading, and the places of their rows; else one without heading."""
        groups = self.groups or (RowGroup("", len(self.rows)),)
        starts = [sum(group.rows for group in groups[:place]) for place in range(len(groups))]
        return [
            (group.name, list(range(start, start + group.rows)))
            for group, start in zip(groups, starts, strict=True)
        ]

    def best(self) -> set[tuple[int, int]]:
        """Which (row, column) hold the best number of their group. Equals are all best."""
        found: set[tuple[int, int]] = set()
        for place, column in enumerate(self.columns):
            if column.better is None:
                continue
            pick = min if column.better == "lower" else max
            for _, rows in self.grouped_rows():
                values = {
                    row: value.value
                    for row in rows
                    if isinstance(value := self.rows[row][place], Number)
                }
                if len(values) > 1:
                    best = pick(values.values())
                    found |= {(row, place) for row, value in values.items() if value == best}
        return found


def _as_value(value: Value) -> Value:
    """Plain numbers as `Number`."""
    if value is None or isinstance(value, (str, Number)):
        return value
    return Number(value)


def _checked(column: Column, values: Sequence[Value]) -> Column:
    """The column, with the kind of its numbers.

    Raises:
        ValueError: If there is text among numbers, or numbers are of different kinds.
    """
    numbers = [value for value in values if isinstance(value, Number)]
    texts = [value for value in values if isinstance(value, str)]
    if numbers and texts:
        raise ValueError(
            f"the column {column.name!r} has numbers and the text {texts[0]!r}; expected one of "
            "both, and None where a number is missing"
        )
    if texts and (column.kind or column.unit or column.better):
        raise ValueError(
            f"the column {column.name!r} has kind, unit or better, which are of numbers, and the "
            f"text {texts[0]!r}"
        )
    kinds = {number.kind for number in numbers if number.kind} | ({column.kind} - {""})
    if len(kinds) > 1:
        raise ValueError(
            f"the column {column.name!r} has numbers of several kinds: {', '.join(sorted(kinds))}; "
            "expected one kind, and a column of its own for each"
        )
    fields: Mapping[str, object] = {**vars(column), "kind": next(iter(kinds), "")}
    return Column(**fields)  # type: ignore[arg-type]
