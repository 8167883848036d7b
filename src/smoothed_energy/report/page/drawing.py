"""Plots drawn from plain data by matplotlib: lines with bands, points and intervals.

The same data give the same bytes: nothing depends on the user's style, the day or a random number.
"""

from __future__ import annotations

__all__ = ["interval_plot", "line_plot", "point_plot"]

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .figure import as_svg, new_axes
from .number import Number
from .palette import INK, MARKERS, PALETTE, QUIET
from .plot import Plot
from .series import Line, PlotAxes, Points, numbers_of
from .table import Column, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MARKED = 24  # points of a line that still get a marker each
STYLES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
LABEL_WIDTH = 72  # characters of a line along an axis
SHORTEST_TICK = 6  # and of one at a tick
NAME_WIDTH = 36  # and of a name within a plot or beside it
BAND = 0.16  # opacity

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def line_plot(lines: Sequence[Line], axes: PlotAxes, caption: str) -> Plot:
    """Lines, with bands where their values have intervals.

    Args:
        lines: The lines; colour, style and marker tell them apart.
        axes: What is along x and y.
        caption: What is to be seen.

    Raises:
        ImportError: If matplotlib is not there.
        ValueError: If there are no lines, two of one label, texts and numbers along x, or numbers
            of different kinds.
    """
    _check_labels([line.label for line in lines])
    _check_kinds([value for line in lines for value in numbers_of(line.y)])
    if len({isinstance(at, str) for line in lines for at in line.x}) > 1:
        raise ValueError("the lines have texts and numbers along x; expected one of both")
    with new_axes() as (figure, plot):
        handles: dict[str, Line2D] = {}
        for place, line in enumerate(lines):
            x: list[float | str] = list(line.x)
            y = numbers_of(line.y)
            colour = PALETTE[place % len(PALETTE)]
            handles[line.label] = plot.plot(
                x,
                [value.value for value in y],
                color=colour,
                linestyle=STYLES[place % len(STYLES)],
                marker=MARKERS[place % len(MARKERS)] if len(x) <= MARKED else "",
            )[0]
            if any(value.interval for value in y):
                ends = [value.interval or (value.value, value.value) for value in y]
                low, high = zip(*ends, strict=True)
                plot.fill_between(x, low, high, color=colour, alpha=BAND, linewidth=0)
        _finish(plot, axes)
        texts = list(dict.fromkeys(at for line in lines for at in line.x if isinstance(at, str)))
        if texts:
            # As wide as their place, so that none runs into the next one.
            width = max(LABEL_WIDTH // len(texts) - 1, SHORTEST_TICK)
            plot.set_xticks(range(len(texts)), [_wrapped(text, width) for text in texts])
        _draw_legend(figure, handles)
        svg = as_svg(figure)
    return Plot(svg, caption, _table_of_lines(lines, axes, caption))


def point_plot(points: Sequence[Points], axes: PlotAxes, caption: str) -> Plot:
    """Points of two numbers, with both intervals as whiskers.

    Args:
        points: The points; colour and marker tell them apart.
        axes: What is along x and y.
        caption: What is to be seen.

    Raises:
        ImportError: If matplotlib is not there.
        ValueError: If there are none, two of one label, or numbers of different kinds
            along an axis.
    """
    _check_labels([some.label for some in points])
    _check_kinds([value for some in points for value in numbers_of(some.x)])
    _check_kinds([value for some in points for value in numbers_of(some.y)])
    with new_axes() as (figure, plot):
        handles: dict[str, Line2D] = {}
        for place, some in enumerate(points):
            x, y = numbers_of(some.x), numbers_of(some.y)
            drawn = plot.errorbar(
                [value.value for value in x],
                [value.value for value in y],
                xerr=_whiskers(x),
                yerr=_whiskers(y),
                color=PALETTE[place % len(PALETTE)],
                marker=MARKERS[place % len(MARKERS)],
                linestyle=STYLES[place % len(STYLES)] if some.joined else "none",
                elinewidth=1,
            )
            handles[some.label] = drawn.lines[0]
            for name, right, up in zip(some.names, x, y, strict=bool(some.names)):
                plot.annotate(
                    name,
                    (right.value, up.value),
                    xytext=(5, 4),
                    textcoords="offset points",
                    color=QUIET,
                    fontsize="small",
                )
        _finish(plot, axes)
        _draw_legend(figure, handles)
        svg = as_svg(figure)
    columns = [Column("series"), Column("point"), Column(axes.x), Column(axes.y or "y")]
    rows = [
        (some.label, (some.names or [""] * len(some.x))[place], some.x[place], some.y[place])
        for some in points
        for place in range(len(some.x))
    ]
    return Plot(svg, caption, Table(columns, rows, caption))


def interval_plot(numbers: Mapping[str, Number], axes: PlotAxes, caption: str) -> Plot:
    """Numbers below each other, each with its interval as a whisker.

    Args:
        numbers: The numbers by their labels, from the top down.
        axes: What is along x; y is not used.
        caption: What is to be seen.

    Raises:
        ImportError: If matplotlib is not there.
        ValueError: If there are none, or numbers of different kinds.
    """
    _check_labels(list(numbers))
    values = list(numbers.values())
    _check_kinds(values)
    with new_axes(height=0.55 + 0.27 * len(numbers)) as (figure, plot):
        plot.errorbar(
            [value.value for value in values],
            range(len(values)),
            xerr=_whiskers(values),
            color=PALETTE[0],
            marker=MARKERS[0],
            linestyle="none",
            elinewidth=1.5,
        )
        plot.set_yticks(
            range(len(values)), [_wrapped(name, NAME_WIDTH) for name in numbers], color=INK
        )
        plot.set_ylim(len(values) - 0.4, -0.6)
        plot.grid(visible=False, axis="y")
        plot.spines["left"].set_visible(False)
        plot.tick_params(axis="y", length=0)
        for label, at in axes.guides.items():
            plot.axvline(at, color=QUIET, linestyle=(0, (2, 2)), linewidth=1)
            plot.annotate(
                _wrapped(label, NAME_WIDTH),
                (at, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, 2),
                textcoords="offset points",
                color=QUIET,
                fontsize="small",
            )
        plot.set_xscale("log" if axes.x_log else "linear")
        plot.set_xlabel(_wrapped(axes.x))
        svg = as_svg(figure)
    columns = [Column("name"), Column(axes.x)]
    return Plot(svg, caption, Table(columns, list(numbers.items()), caption))


def _wrapped(label: str, width: int = LABEL_WIDTH) -> str:
    return textwrap.fill(label, width)


def _finish(plot: Axes, axes: PlotAxes) -> None:
    if axes.x_log:
        plot.set_xscale("log")
    if axes.y_log:
        plot.set_yscale("log")
    # Text of the page, which knows no mathematics of matplotlib.
    for axis, is_log in ((plot.xaxis, axes.x_log), (plot.yaxis, axes.y_log)):
        if is_log:
            axis.set_major_formatter(_power_of_ten)
            axis.set_minor_formatter("")
    plot.set_xlabel(_wrapped(axes.x))
    plot.set_title(_wrapped(axes.y))
    for label, at in axes.guides.items():
        plot.axhline(at, color=QUIET, linestyle=(0, (2, 2)), linewidth=1, zorder=1)
        plot.annotate(
            _wrapped(label, NAME_WIDTH),
            (1, at),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            horizontalalignment="right",
            color=QUIET,
            fontsize="small",
        )


def _power_of_ten(value: float, place: float) -> str:
    """A tick of a logarithmic axis: 0.01 to 100 as they are, others as powers of ten."""
    exponent = round(math.log10(value))
    if not math.isclose(value, 10.0**exponent, rel_tol=1e-9):
        return ""
    if abs(exponent) <= 2:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def _draw_legend(figure: Figure, handles: Mapping[str, Line2D]) -> None:
    """The labels of lines over the plot; one line alone needs none."""
    if len(handles) < 2:
        return
    labels = [_wrapped(label, NAME_WIDTH) for label in handles]
    longest = max(len(line) for label in labels for line in label.splitlines())
    legend = figure.legend(
        list(handles.values()),
        [str(place) for place in range(len(handles))],
        loc="outside upper left",
        ncols=min(len(handles), max(1, LABEL_WIDTH // (longest + 6))),
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)  # now, since matplotlib leaves out labels that begin with "_"


def _table_of_lines(lines: Sequence[Line], axes: PlotAxes, caption: str) -> Table:
    """A row for each place along x, a column for each line."""
    values = {line.label: dict(zip(line.x, line.y, strict=True)) for line in lines}
    places = list(dict.fromkeys(at for line in lines for at in line.x))
    if not any(isinstance(at, str) for at in places):
        places = sorted(places)
    group = axes.y if len(lines) > 1 else ""
    columns = [Column(axes.x), *(Column(label, group=group) for label in values)]
    rows = [(at, *(line.get(at) for line in values.values())) for at in places]
    return Table(columns, rows, caption)


def _whiskers(numbers: Sequence[Number]) -> tuple[list[float], list[float]] | None:
    """How far intervals reach down and up; None if there are none."""
    if not any(number.interval for number in numbers):
        return None
    ends = [number.interval or (number.value, number.value) for number in numbers]
    return (
        [max(0.0, n.value - low) for n, (low, _) in zip(numbers, ends, strict=True)],
        [max(0.0, high - n.value) for n, (_, high) in zip(numbers, ends, strict=True)],
    )


def _check_labels(labels: Sequence[str]) -> None:
    if not labels:
        raise ValueError("a plot needs something to draw; got nothing")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice; expected a label for each")


def _check_kinds(numbers: Sequence[Number]) -> None:
    kinds = sorted({number.kind for number in numbers if number.kind})
    if len(kinds) > 1:
        raise ValueError(
            f"numbers of several kinds along one axis: {', '.join(kinds)}; expected one kind, and "
            "a plot for each"
        )
