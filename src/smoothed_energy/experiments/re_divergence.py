"""Figure 9 and appendix A.2 of [Re]: how fast guided and unguided trajectories come apart."""

from __future__ import annotations

__all__ = ["RE_APPENDIX_A2", "RE_FIGURE_9"]

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from ..trace import divergence
from .experiment import Experiment
from .guidances import seg
from .row import UNGUIDED, Row
from .study import Study
from .traced import trace_rows

if TYPE_CHECKING:
    from ..report.page import Section, Verdict

#: The study calls trajectories identical whose numbers agree to so many decimals.
_IDENTICAL = 1e-13


def _rows(study: Study) -> list[Row]:
    subject = study.subject
    return [
        UNGUIDED,
        *(
            seg(subject, "gaussian:inf", subject.paper_scale, steps=steps, label=words)
            for steps, words in (
                ("all", "all steps"),
                ("begin", "first third"),
                ("mid", "second third"),
                ("end", "last third"),
            )
        ),
    ]


def _figure_9(study: Study) -> Section:
    from ..report.page import (  # noqa: PLC0415 - only when a page is made
        Column,
        Line,
        Number,
        PlotAxes,
        Section,
        Table,
        line_plot,
    )

    traced = trace_rows(study, _rows(study), [], dtype=torch.float64)
    plain = traced.pop(UNGUIDED.label).trajectory
    lines, table, numbers = [], [], {}
    earliest = {}
    for label, one in traced.items():
        apart = divergence(plain, one.trajectory)
        means: list[float | Number] = apart.relative_l2.mean(dim=1).clamp_min(1e-17).tolist()
        lines.append(Line(label, list(range(len(means))), means))
        firsts = [step for step in apart.first_above(_IDENTICAL) if step is not None]
        earliest[label] = min(firsts) if firsts else None
        table.append(
            [label, None if not firsts else min(firsts), apart.relative_l2[-1].mean().item()]
        )
        numbers[label] = {"relative_l2": means, "first above 1e-13": earliest[label]}
    study.keep("divergence", numbers)
    steps = len(plain)
    return Section(
        "Divergence of trajectories",
        "Relative distance of the noisy latents to those of the unguided run on the same noise, in "
        "float64; no prompt. Step 0 is the noise that both begin with.",
        [
            line_plot(
                lines,
                PlotAxes("step", "relative L2 distance", y_log=True),
                "Distances below 1e-17 are 0: up to there both runs are the same.",
            ),
            Table(
                [
                    Column("guided"),
                    Column("first step that differs", kind="by more than 1e-13, relative"),
                    Column("at the last step", kind="relative L2"),
                ],
                table,
                "When guided and unguided runs come apart.",
            ),
            _identical(earliest, steps),
        ],
        anchor="re-figure-9",
        source="[Re], Figure 9",
    )


def _identical(earliest: Mapping[str, int | None], steps: int) -> Verdict:
    """What the first steps that differ say of section 6.4."""
    from ..report.page import Verdict  # noqa: PLC0415 - only when a page is made

    first, late = earliest["all steps"], earliest["last third"]
    holds = first is None or first >= round(17 / 30 * steps)
    because = f"Guided from the first step on, runs differ at step {first} of {steps}"
    because += ", the first at which they can. " if first == 1 else ". "
    if late is not None and not holds:
        because += (
            "Only guidance that begins later leaves earlier steps as they are: in the last third "
            f"alone, that is until step {late}. Comparing such runs would explain the claim."
        )
    if first is None:
        because = "Guided from the first step on, runs do not differ at all."
    return Verdict(
        "Trajectories are identical to 13 decimals until step 17 (of 30).",
        "[Re], section 6.4",
        "holds" if holds else "does not hold",
        because,
    )


RE_FIGURE_9 = Experiment(
    "re-figure-9", "[Re], Figure 9", "When do guided and unguided runs come apart?", _figure_9
)


def _appendix_a2(study: Study) -> Section:
    from ..report.page import (  # noqa: PLC0415 - only when a page is made
        Column,
        Number,
        Section,
        Table,
    )

    traced = trace_rows(study, _rows(study)[:3], [], dtype=torch.float64)
    plain = traced.pop(UNGUIDED.label).trajectory
    rows: list[list[str | float | Number | None]] = []
    for label, one in traced.items():
        apart = divergence(plain, one.trajectory)
        last = len(plain) - 1
        early, late = apart.growth(1, last // 2), apart.growth(last // 2, last)
        rows.append(
            [
                label,
                Number(early.rate, early.low, early.high),
                Number(late.rate, late.low, late.high),
            ]
        )
        study.keep(
            label,
            {
                half: {"rate": rate.rate, "low": rate.low, "high": rate.high}
                for half, rate in (("first half", early), ("second half", late))
            },
        )
    kind = "per step, 95 % interval over runs"
    return Section(
        "The rate of divergence",
        "The rate at which the distance of guided and unguided runs grows, fitted to its "
        "logarithm. A constant positive rate would be a Lyapunov exponent; a rate that falls from "
        "half to half is not one, but a distance that saturates.",
        [
            Table(
                [
                    Column("guided"),
                    Column("first half", kind=kind, group="rate"),
                    Column("second half", kind=kind, group="rate"),
                ],
                rows,
                "Growth of the distance to the unguided run.",
            )
        ],
        anchor="re-appendix-a2",
        source="[Re], appendix A.2",
    )


RE_APPENDIX_A2 = Experiment(
    "re-appendix-a2",
    "[Re], appendix A.2",
    "Do trajectories come apart exponentially?",
    _appendix_a2,
)
