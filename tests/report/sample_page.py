"""A page with one of everything, small enough to be built for every test."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from smoothed_energy.report.page import (
    Cell,
    Column,
    Line,
    Number,
    Page,
    PictureGrid,
    PlotAxes,
    Points,
    Provenance,
    RowGroup,
    Section,
    Table,
    Verdict,
    interval_plot,
    line_plot,
    point_plot,
)

SCALES, LAYERS, SEEDS = ("0", "1.5", "3"), ("mid", "down"), ("0", "1", "2", "3")
FD = "Frechet distance, EfficientNet-Lite0, 224 px bicubic"
HOSTILE = (
    "</script><script>window.hacked = 1</script><!-- <img src=https://example.com/x "
    "onerror='window.hacked = 1'> & \"quotes\" *stars* `code` [a](javascript:window.hacked=1)"
)


def picture(*numbers: int, size: int = 96) -> Image.Image:
    """A picture that only these numbers give."""
    pixels = np.random.default_rng(numbers).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)


def grid(missing: tuple[str, str, str] = ("3", "down", "2")) -> PictureGrid:
    """Three axes, with one place that is empty; unguided is scale 0."""
    cells = [
        Cell(
            picture(i, j, k),
            axes={"scale": scale, "layers": layers, "seed": seed},
            settings={"steps": 8, "prompt": HOSTILE, "sigma": math.inf, "rescale": 0.5},
            baseline={"scale": "0"},
        )
        for i, scale in enumerate(SCALES)
        for j, layers in enumerate(LAYERS)
        for k, seed in enumerate(SEEDS)
        if (scale, layers, seed) != missing
    ]
    return PictureGrid(cells, "Scales and layers", "scale", "seed", "All seeds of *both* layers.")


def table() -> Table:
    """Groups of rows and of columns, intervals, missing numbers, an infinite one."""
    return Table(
        [
            Column("Settings"),
            Column("sigma"),
            Column("FID", "Inception, 299 px", better="lower", decimals=3, group="Published"),
            Column("Distance", FD, better="lower", group="Ours"),
            Column("Accuracy", unit="%", better="higher", group="Ours"),
        ],
        [
            ("vanilla", None, 53.423, Number(402.13, 395.2, 409.4, FD), 61),
            ("blur_10 & more", 10, 29.325, Number(377.71, 371.5, 384.1, FD), 72.5),
            ("blur | all", math.inf, 26.169, Number(379.35, 372.6, 386.2, FD), 71.5),
            ("CFG 1.8", None, None, Number(388.84, 382.1, 394.8, FD), 69.5),
            ("momentum", None, None, Number(399.9, 393.5, 406.3, FD), None),
        ],
        "Text to image.",
        "Intervals of 95 %.",
        [RowGroup("Guidance", 3), RowGroup("Controls", 2)],
    )


def sample_page(text: str = "The text of a section.") -> Page:
    """One of everything; the second grid is far below the first."""
    steps = range(30)
    lines = [
        Line(label, steps, [Number(base - step / 30, base - 1.1, base + 0.1) for step in steps])
        for label, base in (("unguided", 2.0), ("guided", 3.0))
    ]
    points = Points("SEG", [Number(4, 3, 5), 3], [0.6, Number(0.7, 0.6, 0.8)], ("0", "∞"), True)
    unguided = Cell(picture(8, size=300), settings={"scale": 0.0}, label="unguided")
    large = [
        Cell(picture(9, i, size=300), {"sigma": sigma}, {"scale": 3.0}, unguided)
        for i, sigma in enumerate(("1", "10", "∞"))
    ]
    verdicts = [
        Verdict("It is *better*.", "SEG, Table 2", "holds", "Lower.", Number(-24, -30, -19, FD)),
        Verdict("More is better.", "SEG, Table 2", "does not hold", "It is not."),
        Verdict("They are equal.", "[Re], 6.4", "can't be told", "Too few samples."),
    ]
    return Page(
        "A report",
        "Of a test",
        "In short: **it works**.",
        [
            Section("Pictures", text, [grid(), verdicts[0]], source="SEG, Figure 2", part="SEG"),
            Section("Numbers", "- one\n- two", [table(), verdicts[1]], part="SEG"),
            Section(
                "Plots",
                blocks=[
                    line_plot(lines, PlotAxes("step", "norm", guides={"none": 1.0}), "By step."),
                    point_plot([points], PlotAxes("distance", "accuracy"), "Both."),
                    interval_plot({"a": Number(1, 0, 2), "b": Number(3)}, PlotAxes("x"), "Below."),
                    verdicts[2],
                ],
                part="[Re]",
            ),
            Section("More", blocks=[PictureGrid(large, "In a row", columns="sigma")], part="[Re]"),
        ],
        Provenance("make it", {"torch": "2.13"}, {"weights": "sha256:0"}, {"cores": "2"}),
    )


def hostile_page() -> Page:
    """Every text of a page is one that tries to be more."""
    cell = Cell(picture(1), {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, label=HOSTILE)
    other = Cell(picture(2), {HOSTILE: HOSTILE + "2"}, {HOSTILE: "other"}, cell, HOSTILE)
    number = Number(1, 0, 2, HOSTILE)
    columns = [Column(HOSTILE, group=HOSTILE), Column("n", HOSTILE, HOSTILE, group=HOSTILE)]
    lines = [Line(HOSTILE + end, ("<b>", "b"), (1, number)) for end in "12"]
    blocks = [
        PictureGrid([other], HOSTILE, HOSTILE, None, HOSTILE),
        Table(columns, [(HOSTILE, number)], HOSTILE, HOSTILE, [RowGroup(HOSTILE, 1)]),
        Verdict(HOSTILE, HOSTILE, "holds", HOSTILE, number),
        line_plot(lines, PlotAxes(HOSTILE, HOSTILE, guides={HOSTILE: 1.0}), HOSTILE),
    ]
    entries = {HOSTILE: HOSTILE}
    return Page(
        HOSTILE,
        HOSTILE,
        HOSTILE,
        [Section(HOSTILE, HOSTILE, blocks, "a", HOSTILE, HOSTILE)],
        Provenance(HOSTILE, entries, entries, entries, entries, HOSTILE),
    )
