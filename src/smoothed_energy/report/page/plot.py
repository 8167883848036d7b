"""A plot: an SVG, what it shows, and the numbers that it was drawn from."""

from __future__ import annotations

__all__ = ["Plot"]

from dataclasses import dataclass

from .svg import check_svg
from .table import Table


@dataclass(frozen=True)
class Plot:
    """A plot, as `line_plot`, `point_plot` and `interval_plot` draw it.

    Args:
        svg: The picture as SVG. Colours of `PALETTE` follow the theme of the page.
        caption: What is to be seen; inline text as in `Section`.
        data: The numbers that it was drawn from; they can be opened below it, and copied.
        description: What the picture shows, for those who don't see it. Default: the caption.

    Raises:
        ValueError: If it is no SVG, or one that runs code or asks for other files.
    """

    svg: str
    caption: str
    data: Table | None = None
    description: str = ""

    def __post_init__(self) -> None:
        check_svg(self.svg)
