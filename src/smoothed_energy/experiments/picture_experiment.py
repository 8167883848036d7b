"""Experiments whose answer is to be seen: a grid of pictures, and their side effects in numbers."""

from __future__ import annotations

__all__ = ["Figure", "picture_experiment"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .experiment import Experiment
from .pictures import picture_grid
from .row import Row
from .study import Study

if TYPE_CHECKING:
    from ..report.page import Section


@dataclass(frozen=True)
class Figure:
    """A figure of a paper.

    Args:
        name: The experiment's name.
        source: What it is in its paper.
        question: What it asks.
        title: The section's title.
        text: What is drawn, and what to look for.
        rows: The ways to draw, for a study.
        axes: The places where a row stands in the grid; by default one, on an axis of labels.
        baseline: The label of the row that a row is compared with; by default the unguided one.
        prompts: `"none"`, or `"few"`: the subject's prompts, each with each seed.
        columns: The axis of the grid's columns.
    """

    name: str
    source: str
    question: str
    title: str
    text: str
    rows: Callable[[Study], Sequence[Row]]
    axes: Callable[[Row], Sequence[Mapping[str, str]]] | None = None
    baseline: Callable[[Row], str] | None = None
    prompts: Literal["none", "few"] = "none"
    columns: str | None = None


def picture_experiment(figure: Figure) -> Experiment:
    """The experiment that draws a figure."""

    def run(study: Study) -> Section:
        from ..report.page import Section  # noqa: PLC0415 - only when a page is made

        drawn = study.draw(
            figure.name,
            list(figure.rows(study)),
            seeds=study.subject.picture_seeds,
            prompts=study.subject.prompts if figure.prompts == "few" else None,
        )
        grid = picture_grid(
            drawn,
            figure.title,
            figure.text,
            axes=figure.axes,
            baseline=figure.baseline,
            columns=figure.columns,
        )
        return Section(
            figure.title,
            figure.text,
            [grid, study.side_effects(drawn)],
            anchor=figure.name,
            source=figure.source,
        )

    return Experiment(figure.name, figure.source, figure.question, run)
