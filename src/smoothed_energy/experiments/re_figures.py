"""Figures of pictures of [Re]: when, which kernel, which layers."""

from __future__ import annotations

__all__ = ["RE_FIGURES"]

from .guidances import seg
from .picture_experiment import Figure, picture_experiment
from .re_table_3 import smoothers
from .row import UNGUIDED, Row
from .study import Study

_TIMES = {"begin": "first third", "mid": "second third", "end": "last third", "all": "all steps"}


def _times(study: Study) -> list[Row]:
    subject = study.subject
    return [
        UNGUIDED,
        *(
            seg(subject, "gaussian:inf", subject.paper_scale, steps=steps, label=words)
            for steps, words in _TIMES.items()
        ),
    ]


def _kernels(study: Study) -> list[Row]:
    rows = smoothers(study.subject, study.subject.paper_scale)
    return [UNGUIDED, *(row for name, row in rows.items() if not name.startswith("EMA"))]


def _layers(study: Study) -> list[Row]:
    subject = study.subject
    return [
        UNGUIDED,
        *(
            seg(
                subject,
                "gaussian:inf",
                subject.paper_scale,
                layers=layers,
                steps="begin",
                label=layers.replace(",", " and "),
            )
            for layers in ("down", "mid", "up", "down,mid", "mid,up", "down,mid,up")
        ),
    ]


#: The figures that show pictures, in the study's order.
RE_FIGURES = tuple(
    picture_experiment(figure)
    for figure in (
        Figure(
            "re-figure-1",
            "[Re], Figure 1",
            "In which part of the run does guidance act?",
            "When guidance acts",
            "The same noise, guided in a third of the steps or in all, no prompt.",
            _times,
        ),
        Figure(
            "re-figure-2",
            "[Re], Figures 2, 10 and 11",
            "What does the size of the kernel change?",
            "Sizes of kernels",
            "Truncated Gaussian and box blurs in the first third of the steps, no prompt.",
            _kernels,
        ),
        Figure(
            "re-figure-3",
            "[Re], Figures 3, 12 and 13",
            "Which layers should be smoothed?",
            "Layers",
            "The path down, the middle, the path up, in the first third of the steps, no prompt.",
            _layers,
        ),
    )
)
