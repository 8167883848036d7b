"""The best of a grid of scales, chosen on seeds that no table is made of."""

from __future__ import annotations

__all__ = ["Chosen", "best_scales"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .row import UNGUIDED, Row
from .study import SELECTION_SEED, Study

if TYPE_CHECKING:
    from ..report.page import Plot


@dataclass(frozen=True)
class Chosen:
    """The best scale of each method, and the curve that it was chosen from.

    Args:
        scales: The scale of each method.
        plot: The distance over the scale.
    """

    scales: Mapping[str, float]
    plot: Plot


def best_scales(
    study: Study,
    name: str,
    methods: Mapping[str, Callable[[float], Row]],
    grid: Sequence[float],
) -> Chosen:
    """The scale of a grid at which each method's samples are closest to real pictures.

    Args:
        study: Draws and measures.
        name: What the progress calls it.
        methods: What makes the row of each method for a scale.
        grid: The scales.
    """
    from ..report.page import Line, Number, PlotAxes, line_plot  # noqa: PLC0415 - for a page

    rows = {(method, scale): make(scale) for method, make in methods.items() for scale in grid}
    seeds = range(SELECTION_SEED, SELECTION_SEED + min(study.samples, study.scope.selection))
    drawn = study.draw(name, [UNGUIDED, *rows.values()], seeds=seeds)
    distances = study.measuring.distances(drawn, "frechet")
    scales = {
        method: min(grid, key=lambda scale: distances[rows[method, scale].label])
        for method in methods
    }
    lines = []
    for method in methods:
        values: list[float | Number] = [distances[rows[method, scale].label] for scale in grid]
        lines.append(Line(method, list(grid), values))
    study.keep(
        "best scales",
        {
            "grid": list(grid),
            "chosen": scales,
            "samples": len(seeds),
            "frechet": {row.label: distances[row.label] for row in drawn.rows},
        },
    )
    plot = line_plot(
        lines,
        PlotAxes(
            "scale",
            f"Frechet distance, {study.measuring.extractor.name}",
            guides={"unguided": distances[UNGUIDED.label]},
        ),
        f"The scales were chosen here, on {len(seeds)} seeds that no table is made of.",
    )
    return Chosen(scales, plot)
