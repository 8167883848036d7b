"""How a run tells of its progress: to nobody, or with a bar on the terminal."""

from __future__ import annotations

__all__ = ["Bar", "Lines", "Progress", "Silence"]

import warnings
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)

from ..engine.summary import GuidanceWarning
from ..settings.printable import one_line


class Progress(Protocol):
    """What a run tells of itself."""

    def begin(self, total: int, done: int) -> None:
        """A sweep of `total` pictures begins, of which `done` are there."""
        ...

    def advance(self, pictures: int) -> None:
        """So many more pictures are there."""
        ...

    def note(self, line: str) -> None:
        """Something to know happened: a warning, a worker that died."""
        ...

    def end(self) -> None:
        """The run ends, however it does."""
        ...


class Silence:
    """No progress; what there is to know becomes a warning of Python."""

    def begin(self, total: int, done: int) -> None:
        """Say nothing."""

    def advance(self, pictures: int) -> None:
        """Say nothing."""

    def note(self, line: str) -> None:
        """Warn."""
        warnings.warn(line, GuidanceWarning, stacklevel=2)

    def end(self) -> None:
        """Say nothing."""


class Lines(Silence):
    """Notes as lines on standard error, where others show how far a run is."""

    def note(self, line: str) -> None:
        """Print a line."""
        Console(stderr=True).print(one_line(line), markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A bar on standard error, with notes above it."""

    def __init__(self) -> None:
        self._bar = RichProgress(
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=None)

    def begin(self, total: int, done: int) -> None:
        """Show the bar."""
        self._bar.reset(self._task, total=total, completed=done)
        self._bar.start()

    def advance(self, pictures: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, pictures)

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()
