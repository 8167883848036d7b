"""Grids of an experiment's pictures, each beside the unguided one of its sample."""

from __future__ import annotations

__all__ = ["picture_grid"]

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .drawn import Drawn, Sample
from .row import Row

if TYPE_CHECKING:
    from ..report.page import PictureGrid


def picture_grid(  # noqa: PLR0913 - what a grid can be told
    drawn: Drawn,
    title: str,
    caption: str,
    *,
    axes: Callable[[Row], Sequence[Mapping[str, str]]] | None = None,
    baseline: Callable[[Row], str] | None = None,
    rows: str | None = None,
    columns: str | None = None,
) -> PictureGrid:
    """The pictures of an experiment as a grid whose axes the reader may assign anew.

    Args:
        drawn: The pictures.
        title: The grid's name.
        caption: What is to be seen in it.
        axes: The places where a row stands; by default there is one axis, "guidance", of all
            labels.
        baseline: The label of the row that a row is compared with; by default that of its
            unguided one, where there is one.
        rows: The axis of the rows; by default that of the samples.
        columns: The axis of the columns; by default the last one of `axes`.
    """
    from ..report.page import Cell, PictureGrid  # noqa: PLC0415 - only when a page is made

    places = axes or (lambda row: [{"guidance": row.label}])
    with_prompts = len({sample.prompt for sample in drawn.samples}) > 1
    with_seeds = len({sample.seed for sample in drawn.samples}) > 1
    cells = []
    for row in drawn.rows:
        compared = row.baseline if baseline is None else baseline(row)
        for index, sample in enumerate(drawn.samples):
            other = None
            if compared in drawn.paths and compared != row.label:
                other = Cell(drawn.paths[compared][index], label=compared)
            cells += [
                Cell(
                    drawn.paths[row.label][index],
                    axes={**place, **_sample_axes(sample, with_prompts, with_seeds)},
                    settings=_settings(row, sample),
                    baseline=other,
                    label=row.label,
                )
                for place in places(row)
            ]
    names = list(places(drawn.rows[0])[0])
    sample_axis = "seed" if with_seeds or not with_prompts else "prompt"
    return PictureGrid(
        cells, title, rows=rows or sample_axis, columns=columns or names[-1], caption=caption
    )


def _sample_axes(sample: Sample, with_prompts: bool, with_seeds: bool) -> dict[str, str]:
    found = {}
    if with_prompts:
        found["prompt"] = sample.prompt or "no prompt"
    if with_seeds or not with_prompts:
        found["seed"] = str(sample.seed)
    return found


def _settings(row: Row, sample: Sample) -> dict[str, str]:
    return {
        "guidance": " + ".join(row.guidance) or "none",
        "classifier-free guidance": f"{row.cfg:g}" if row.cfg != 1 else "off",
        **({} if row.scheduler is None else {"scheduler": row.scheduler}),
        "prompt": sample.prompt or "none",
        "seed": str(sample.seed),
    }
