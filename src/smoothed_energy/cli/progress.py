"""A progress bar over the denoising steps of all images."""

from __future__ import annotations

__all__ = ["ImageProgress"]

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ImageProgress:
    """A bar on standard error that tells how many images are done and how long the rest takes.

    As a context manager it gives a function that advances it by a number of images, whole or not.

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
        )
        self._task = self._bar.add_task("", total=images * steps, text=self._text())

    def __enter__(self) -> Callable[[float], None]:
        self._bar.start()
        return self.advance

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def advance(self, images: float) -> None:
        """Count more images as done; parts of an image count, too."""
        self._done += images
        self._bar.update(self._task, completed=self._done * self._steps, text=self._text())

    def _text(self) -> str:
        whole = int(self._done + 1e-6)
        return f"{whole}/{self._images} image{'s' if self._images > 1 else ''}"

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
