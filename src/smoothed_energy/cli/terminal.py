"""What is shown on the terminal: lines, paths and tables in which every character can be seen."""

from __future__ import annotations

__all__ = ["note", "print_path", "print_table", "take_off", "waiting"]

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

from ..settings.printable import one_line, printable


def note(line: str) -> None:
    """Print a line on standard error."""
    typer.echo(one_line(line), err=True)


def print_path(path: Path) -> None:
    """Print a path on standard output: as it is for a program, and so that it can be seen."""
    shown: str | bytes = printable(str(path)) if sys.stdout.isatty() else os.fsencode(path)
    typer.echo(shown)
    sys.stdout.flush()


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A block during which a terminal shows what is waited for; nothing of it stays."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(Text(printable(text))):
        yield


def take_off(bar: Progress) -> None:
    """End a bar without a trace: the error that follows is all there is to say."""
    bar.live.transient = True
    bar.live.stop()
    bar.disable = True


def print_table(  # noqa: PLR0913 - what tables differ in
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    caption: str = "",
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
    sections: Sequence[int] = (),
    width: int = 160,
) -> None:
    """Print a table on standard output.

    Args:
        columns: The names of its columns.
        rows: What stands in them.
        title: The line above it.
        caption: The line below it.
        right: The columns that are aligned to the right.
        whole: The columns that are never broken.
        sections: The rows below which there is a gap.
        width: How wide it is where there is no terminal: a row should stay a line.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(value: object) -> Text:
        return Text(printable(str(value)))  # a Text has no markup

    table = Table(
        title=cell(title) if title else None,
        caption=cell(caption) if caption else None,
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    for name in columns:
        table.add_column(
            cell(name),
            justify="right" if name in right else "left",
            no_wrap=name in whole,
            overflow="fold",
        )
    for number, row in enumerate(rows):
        table.add_row(*map(cell, row), end_section=number in sections)
    console = Console()
    (console if console.is_terminal else Console(width=width)).print(table)
