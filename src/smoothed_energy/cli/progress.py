"""A progress bar over the denoising steps of all images."""

from __future__ import annotations

__all__ = ["ImageProgress"]

import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..settings.printable import one_line, printable
from .terminal import print_path, take_off


class ImageProgress:
    """A bar on standard error that tells how many images are done and how long the rest takes.

    It is shown while this is a context manager.

    Args:
        images: How many images there will be.
        steps: Denoising steps of each, the unit in which time is told.
    """

    def __init__(self, images: int, steps: int) -> None:
        self._images = images
        self._steps = steps
        self._done = 0.0
        self._bar = Progress(
            TextColumn("{task.fields[text]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=Console(stderr=True),
            redirect_stdout=False,  # paths are for whoever reads standard output
        )
        self._task = self._bar.add_task("", total=images * steps, text=self._text())

    def __enter__(self) -> None:
        self._bar.start()

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)

    def print(self, found: Path | str) -> None:
        """Print a path, or a line of text, on standard output."""
        if self._bar.console.is_terminal and sys.stdout.isatty():
            shown = printable(str(found))  # above the bar, which is on the same terminal
            self._bar.console.print(shown, markup=False, highlight=False, soft_wrap=True)
        elif isinstance(found, Path):
            print_path(found)
        else:
            typer.echo(found)

    def advance(self, images: float) -> None:
        """Count more images as done; parts of an image count, too."""
        done = self._done + images
        # Parts add up to whole images up to rounding, and the bar ends at 100 % only.
        self._done = round(done) if abs(done - round(done)) < 1e-6 else done
        self._bar.update(self._task, completed=self._done * self._steps, text=self._text())

    def _text(self) -> str:
        return f"{int(self._done)}/{self._images} image{'s' if self._images > 1 else ''}"

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None and self._done == 0:
            take_off(self._bar)
        self._bar.stop()
