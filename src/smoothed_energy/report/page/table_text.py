"""Tables as text: CSV, Markdown and LaTeX.

Each form comes in pieces, a line for every row, so that a page can put rows into another order and
copy what the reader sees.
"""

from __future__ import annotations

__all__ = ["FORMATS", "TableText", "table_text"]

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ...settings.checks import check_choice
from .number import Number, format_number
from .table import Column, Table, Value

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "∞": r"$\infty$",
    "−": "$-$",
    **{character: "\\" + character for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class TableText:
    """A table as text.

    Args:
        head: What stands before the rows.
        groups: For every group of rows: what stands before it, and a line for every row.
        foot: What stands after the rows.
    """

    head: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    foot: str = ""

    def __str__(self) -> str:
        rows = "".join(head + "".join(lines) for head, lines in self.groups)
        return self.head + rows + self.foot


def table_text(table: Table, form: str) -> TableText:
    """A table as ``"csv"``, ``"markdown"`` or ``"latex"``.

    CSV has all digits, and the ends of intervals in columns of their own. Markdown and LaTeX show
    what the page shows; LaTeX needs the package booktabs.

    Raises:
        ValueError: If the form is another.
    """
    check_choice("form", form, tuple(FORMATS))
    return FORMATS[form](table)


def _csv(table: Table) -> TableText:
    spread = [any(n.interval for n in table.numbers(i)) for i in range(len(table.columns))]
    heads = ["group"] if table.groups else []
    for column, wide in zip(table.columns, spread, strict=True):
        name = _plain_head(column)
        heads += [name, f"{name} low", f"{name} high"] if wide else [name]

    def line(group: str, place: int) -> str:
        cells = [group] if table.groups else []
        for value, wide in zip(table.rows[place], spread, strict=True):
            cells.append(_exact(value))
            if wide:
                interval = value.interval if isinstance(value, Number) else None
                cells += ["", ""] if interval is None else [_exact(Number(x)) for x in interval]
        return _csv_line(cells)

    groups = ((name, rows) for name, rows in table.grouped_rows())
    return TableText(
        _csv_line(heads),
        tuple(("", tuple(line(name, row) for row in rows)) for name, rows in groups),
    )


def _markdown(table: Table) -> TableText:
    best = table.best()
    numeric = [table.is_numeric(place) for place in range(len(table.columns))]

    def line(row: int) -> str:
        cells = []
        for place in range(len(table.columns)):
            number, interval = _shown(table, row, place)
            text = _markdown_escaped(number)
            text = f"**{text}**" if (row, place) in best else text
            cells.append(f"{text} {_markdown_escaped(interval)}".strip())
        return f"| {' | '.join(cells)} |\n"

    heads = " | ".join(_markdown_escaped(_plain_head(column)) for column in table.columns)
    rules = " | ".join("---:" if right else "---" for right in numeric)
    blank = " | " * (len(table.columns) - 1)
    return TableText(
        f"| {heads} |\n| {rules} |\n",
        tuple(
            (
                f"| *{_markdown_escaped(name)}*{blank} |\n" if table.groups else "",
                tuple(line(row) for row in rows),
            )
            for name, rows in table.grouped_rows()
        ),
    )


def _latex(table: Table) -> TableText:
    best = table.best()
    width = len(table.columns)
    letters = "".join("r" if table.is_numeric(place) else "l" for place in range(width))

    def line(row: int) -> str:
        cells = []
        for place in range(width):
            number, interval = _shown(table, row, place)
            text = _latex_number(number) if table.is_numeric(place) else _latex_escaped(number)
            text = rf"\textbf{{{text}}}" if (row, place) in best else text
            if interval:
                text += rf" {{\scriptsize {_latex_number(interval)}}}"
            cells.append(text)
        return " & ".join(cells) + " \\\\\n"

    def heading(place: int, name: str) -> str:
        if not table.groups:
            return ""
        rule = "\\midrule\n" if place else ""
        return f"{rule}\\multicolumn{{{width}}}{{l}}{{\\emph{{{_latex_escaped(name)}}}}} \\\\\n"

    heads = " & ".join(_latex_escaped(_plain_head(column)) for column in table.columns)
    return TableText(
        f"\\begin{{tabular}}{{{letters}}}\n\\toprule\n{heads} \\\\\n\\midrule\n",
        tuple(
            (heading(place, name), tuple(line(row) for row in rows))
            for place, (name, rows) in enumerate(table.grouped_rows())
        ),
        "\\bottomrule\n\\end{tabular}\n",
    )


#: The forms, by name.
FORMATS: MappingProxyType[str, Callable[[Table], TableText]] = MappingProxyType(
    {"csv": _csv, "markdown": _markdown, "latex": _latex}
)


def _plain_head(column: Column) -> str:
    """The whole name of a column: its group, name, unit and kind, in one line."""
    group = f"{column.group}: " if column.group else ""
    unit = f" [{column.unit}]" if column.unit else ""
    kind = f" ({column.kind})" if column.kind and column.kind != column.name else ""
    return f"{group}{column.name}{unit}{kind}"


def _shown(table: Table, row: int, place: int) -> tuple[str, str]:
    """A value and its interval, as they are read; empty where there is none."""
    value = table.rows[row][place]
    if not isinstance(value, Number):
        return str(value or ""), ""
    decimals = table.decimals(place)
    ends = [format_number(end, decimals) for end in value.interval or ()]
    return format_number(value.value, decimals), f"[{', '.join(ends)}]" if ends else ""


def _exact(value: Value) -> str:
    """A value with all its digits; whole numbers without a point."""
    if not isinstance(value, Number):
        return str("" if value is None else value)
    number = value.value
    whole = math.isfinite(number) and number.is_integer() and abs(number) < 2**53
    return str(int(number)) if whole else repr(number)


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _markdown_escaped(text: str) -> str:
    text = re.sub(r"([\\`*_|<>\[\]&~$])", r"\\\1", text)
    return re.sub(r"\s+", " ", text).strip()


def _latex_escaped(text: str) -> str:
    text = "".join(LATEX.get(character, character) for character in text)
    return re.sub(r"\s+", " ", text).strip()


def _latex_number(text: str) -> str:
    """A number, or an interval of them, in mathematics, for the length of its minus."""
    return re.sub(
        r"-?(?:∞|[0-9][0-9.]*(?:e[+-][0-9]+)?)", lambda hit: f"${_latex_digits(hit[0])}$", text
    )


def _latex_digits(digits: str) -> str:
    mantissa, exponent, power = digits.replace("∞", r"\infty").partition("e")
    return rf"{mantissa} \cdot 10^{{{int(power)}}}" if exponent else mantissa
