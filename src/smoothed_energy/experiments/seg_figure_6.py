"""SEG, Figure 6: sigma against the scale, in quality and in side effects."""

from __future__ import annotations

__all__ = ["SEG_FIGURE_6_EXPERIMENT"]

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .claims import Claim, verdicts
from .experiment import Experiment
from .guidances import seg
from .pictures import picture_grid
from .row import UNGUIDED, Row
from .study import Study

if TYPE_CHECKING:
    from ..report.page import Section

_SOURCE = "SEG, Figures 6 and 20"


def _run(study: Study) -> Section:
    from ..report.page import Section  # noqa: PLC0415 - only when a page is made

    study.check_tables()
    subject = study.subject
    grid = {
        (blur, scale): seg(subject, blur, scale)
        for blur in subject.sigmas
        for scale in subject.scales
    }
    rows = [UNGUIDED, *grid.values()]
    places = {row.label: place for place, row in grid.items()}

    def axes(row: Row) -> list[Mapping[str, str]]:
        blur, scale = places[row.label]
        return [{"sigma": blur.removeprefix("gaussian:"), "scale": f"{scale:g}"}]

    looked_at = study.draw("seg-figure-6-pictures", rows, seeds=study.subject.picture_seeds)
    # 26 rows: a quarter of the samples of a table for each.
    drawn = study.draw("seg-figure-6", rows, seeds=range(max(4, study.samples // 4)))
    measured = study.measure(drawn)
    curves = {
        f"sigma {blur.removeprefix('gaussian:')}": [grid[blur, scale] for scale in subject.scales]
        for blur in subject.sigmas
    }
    widest, narrowest = subject.sigmas[-1], subject.sigmas[0]
    largest = subject.scales[-1]
    middle = subject.scales[len(subject.scales) // 2]
    claims = [
        Claim(
            f"Increasing sigma improves samples (at scale {middle:g}, from the narrowest blur to "
            "the widest).",
            "SEG, section 5.5",
            grid[widest, middle].label,
            grid[narrowest, middle].label,
        ),
        Claim(
            "Increasing the scale does not (at the widest blur, the smallest scale is at least as "
            "good as the largest).",
            "SEG, section 5.5",
            grid[widest, subject.scales[0]].label,
            grid[widest, largest].label,
        ),
        Claim(
            "A wider blur changes the picture less than a larger scale does "
            f"(sigma inf at {middle:g}, sigma 1 at {largest:g}).",
            "SEG, appendix C",
            grid[widest, middle].label,
            grid[narrowest, largest].label,
            study.pair_metric,
        ),
    ]
    return Section(
        "Sigma or scale?",
        "The paper fixes the scale and widens the blur, since large scales have side effects. "
        "Every curve is one sigma, over the scales; no prompt.",
        [
            picture_grid(
                looked_at.without(UNGUIDED.label),
                "Sigma and scale",
                "Sigma from left to right, the scale from top to bottom.",
                axes=axes,
                rows="scale",
                columns="sigma",
            ),
            measured.trade_off(
                curves,
                study.pair_metric,
                "Distance to real pictures over distance to the unguided picture: lower left is "
                "better, and a curve below another is a better trade.",
            ),
            measured.table("Sigma and scale, without a prompt."),
            *verdicts(measured, claims),
        ],
        anchor="seg-figure-6",
        source=_SOURCE,
    )


SEG_FIGURE_6_EXPERIMENT = Experiment(
    "seg-figure-6", _SOURCE, "Is a wider blur a better lever than a larger scale?", _run
)
