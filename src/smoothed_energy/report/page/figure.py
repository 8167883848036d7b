"""Figures of matplotlib in the style of pages, and their SVG."""

from __future__ import annotations

__all__ = ["as_svg", "new_axes"]

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .palette import GRID, INK, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 5.0, 3.1  # inches; narrow enough that its text can be read on a phone

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.labelcolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": QUIET,  # the label of y stands over the axes, where it can be read
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.unicode_minus": True,
    "errorbar.capsize": 0,
    "font.family": "DejaVu Sans",  # comes with matplotlib; a page shows its own font in its place
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.borderaxespad": 0.2,
    "legend.borderpad": 0.2,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "smoothed-energy",
    "text.color": INK,
    "text.parse_math": False,  # labels are whatever the user calls things
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
}


@contextmanager
def new_axes(height: float = HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes, in the page's style whatever the user's own is.

    Args:
        height: In inches.

    Raises:
        ImportError: If matplotlib is not there.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is not installed; "
            "expected `pip install 'smoothed-energy[measure]'`"
        ) from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


def as_svg(figure: Figure) -> str:
    """A figure as SVG, on no background; the same figure gives the same text."""
    data = io.StringIO()
    with warnings.catch_warnings():
        # The reader's browser has the glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(data, format="svg", transparent=True, metadata={"Date": None})
    return data.getvalue()
