"""SEG, Figure 4: pictures that follow edges, by a ControlNet, with and without guidance."""

from __future__ import annotations

__all__ = ["SEG_FIGURE_4_EXPERIMENT"]

from typing import TYPE_CHECKING

from .experiment import Experiment
from .guidances import seg
from .pictures import picture_grid
from .row import UNGUIDED, Row
from .study import Study

if TYPE_CHECKING:
    from ..report.page import Section

_SOURCE = "SEG, Figures 4, 10 and 11"


def _run(study: Study) -> Section:
    from ..report.page import Section  # noqa: PLC0415 - only when a page is made

    subject = study.subject
    if subject.controlnet is None:
        raise ValueError(f"there is no ControlNet for {subject.title} here")
    rows = [
        UNGUIDED,
        *(
            seg(subject, blur, scale)
            for scale in dict.fromkeys((subject.paper_scale, subject.mild_scale))
            for blur in ("gaussian:10", "gaussian:inf")
        ),
    ]
    # The edges are those of the subject's own pictures, so that nothing has to be fetched.
    sources = study.draw(
        "seg-figure-4-sources",
        [Row("source", cfg=subject.cfg)],
        seeds=[100],
        prompts=subject.prompts,
    )
    blocks = []
    for number, (sample, picture) in enumerate(
        zip(sources.samples, sources.paths["source"], strict=True)
    ):
        edges = study.edges(picture)
        drawn = study.draw(
            f"seg-figure-4-{number}", rows, seeds=study.subject.picture_seeds, control=edges
        )
        blocks.append(
            picture_grid(
                drawn,
                f"Edges of: {sample.prompt}",
                "No prompt; the edges of a picture of the same model, followed by its ControlNet.",
            )
        )
    return Section(
        "Beside a ControlNet",
        "The ControlNet follows the edges (Canny) of pictures that the model drew with a prompt; "
        "the pictures here have no prompt.",
        blocks,
        anchor="seg-figure-4",
        source=_SOURCE,
    )


SEG_FIGURE_4_EXPERIMENT = Experiment(
    "seg-figure-4", _SOURCE, "Does SEG work beside a ControlNet?", _run
)
