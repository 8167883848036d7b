"""Plots of traces: lines by step, a panel for each quantity."""

from __future__ import annotations

__all__ = ["plot_lines"]

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .packages import matplotlib_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: What is plotted of steps by default, if it was measured; a star stands for any guidance.
_DEFAULT = (
    "effective_cfg_scale",
    "correction_relative_norm",
    "*.cosine",
    "latents.frobenius_norm",
    "latents.laplacian_variance",
    "latents.gradient_entropy",
)
_KEYS = ("run", "step", "sample", "layer", "code", "branch")
_BLUE, _GREY = "#2f6fb0", "#6b6b6b"
_ACROSS = 3
_PROPER = ("CFG", "Frobenius", "Laplacian")


class _Tables(Protocol):
    """The tables of a trace."""

    @property
    def steps(self) -> pd.DataFrame: ...

    @property
    def layers(self) -> pd.DataFrame: ...


def plot_lines(
    tables: _Tables, columns: Sequence[str], layers: str | Sequence[str] | None
) -> Figure:
    """Lines by step; see `Measurements.plot`."""
    table = tables.steps
    parts: list[tuple[str | None, pd.DataFrame]] = [(None, table)]
    if layers is not None:
        table = tables.layers[tables.layers["branch"] == "conditional"]
        parts = _layers(table, layers)
    names = _chosen(table, columns)
    across = 2 if len(names) == 4 else min(_ACROSS, len(names))
    down = math.ceil(len(names) / across)
    figure: Figure = matplotlib_figure().Figure(
        figsize=(4.2 * across, 2.9 * down), layout="constrained"
    )
    figure.subplots(down, across, squeeze=False, sharex=True)
    panels = figure.axes
    for panel, name in zip(panels, names, strict=False):
        for place, (label, part) in enumerate(parts):
            _line(panel, part, name, label, _colour(place, len(parts)))
        _dress(panel, name)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    for panel in panels[max(0, len(names) - across) : len(names)]:
        panel.set_xlabel("step", color=_GREY)
        panel.tick_params(labelbottom=True)
    if len(parts) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside right center", frameon=False, fontsize=8, title="layer"
        )
    return figure


def _chosen(table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns that are plotted.

    Raises:
        ValueError: If there are none, or one does not exist.
    """
    there = [name for name in table.columns if name not in _KEYS]
    unknown = [name for name in columns if name not in there]
    if unknown:
        raise ValueError(f"there is no column {unknown[0]!r}; there are {', '.join(there)}")
    if columns:
        return list(columns)
    if "layer" in table.columns:
        found = there
    else:
        found = []
        for wanted in _DEFAULT:
            end = wanted.removeprefix("*")
            found += [
                name for name in there if name == wanted or (end != wanted and name.endswith(end))
            ]
    found = [name for name in found if table[name].notna().any()]
    if not found or not len(table):
        raise ValueError("there is nothing to plot: no step or layer was measured")
    return found


def _layers(
    table: pd.DataFrame, layers: str | Sequence[str]
) -> list[tuple[str | None, pd.DataFrame]]:
    """The layers that are plotted, by their codes.

    Raises:
        ValueError: If one was not measured.
    """
    codes = dict(zip(table["layer"], table["code"], strict=True))
    if layers == "all":
        wanted = list(codes)
    else:
        names = {code: name for name, code in codes.items()} | {name: name for name in codes}
        given = [layers] if isinstance(layers, str) else list(layers)
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(
                f"layer {unknown[0]!r} was not measured; there are {', '.join(codes.values())}"
            )
        wanted = [names[name] for name in given]
    return [(codes[name], table[table["layer"] == name]) for name in wanted]


def _colour(place: int, count: int) -> Any:
    """One colour alone, else colours from dark to bright in the order of layers."""
    if count == 1:
        return _BLUE
    import matplotlib

    return matplotlib.colormaps["viridis"](0.9 * place / (count - 1))


def _line(panel: Any, table: pd.DataFrame, name: str, label: str | None, colour: Any) -> None:
    """The mean by step, and a band between the least and the greatest."""
    found = table.groupby("step")[name].agg(["mean", "min", "max"])
    panel.plot(found.index, found["mean"], color=colour, linewidth=1.8, label=label)
    if label is None and not (found["min"] == found["max"]).all():
        panel.fill_between(
            found.index, found["min"], found["max"], color=colour, alpha=0.18, linewidth=0
        )


def _dress(panel: Any, name: str) -> None:
    words = name.replace("_", " ").replace(".", ": ")
    for proper in _PROPER:
        words = words.replace(proper.lower(), proper)
    panel.set_title(words, fontsize=10, loc="left")
    panel.grid(True, color="#e3e3e3", linewidth=0.7)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#b5b5b5")
    panel.tick_params(colors=_GREY, labelsize=8)
    panel.margins(x=0.01)
    panel.xaxis.get_major_locator().set_params(integer=True)
