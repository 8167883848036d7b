"""SEG, Table 1: without a prompt, against vanilla sampling, SAG and PAG."""

from __future__ import annotations

__all__ = ["SEG_TABLE_1_EXPERIMENT"]

from collections.abc import Callable
from typing import TYPE_CHECKING

from .best_scale import best_scales
from .claims import Claim, verdicts
from .controls import momentum_of_equal_norm
from .experiment import Experiment
from .guidances import pag, sag, seg, unguided
from .published import SEG_TABLE_1
from .published_table import published_table
from .row import UNGUIDED, Row
from .study import Study

if TYPE_CHECKING:
    from ..report.page import Section

_SOURCE = "SEG, Table 1"


def _run(study: Study) -> Section:
    from ..report.page import Section  # noqa: PLC0415 - only when a page is made

    study.check_tables()
    subject = study.subject
    methods: dict[str, Callable[[float], Row]] = {
        "SAG": lambda scale: sag(subject, scale),
        "PAG": lambda scale: pag(subject, scale),
        "SEG sigma 10": lambda scale: seg(subject, "gaussian:10", scale),
        "SEG sigma inf": lambda scale: seg(subject, "gaussian:inf", scale),
    }
    paper_scales = {"SAG": 1.0}
    chosen = best_scales(study, "seg-table-1-scales", methods, subject.scales)
    papers = {
        name: make(paper_scales.get(name, subject.paper_scale)) for name, make in methods.items()
    }
    best = {name: make(chosen.scales[name]) for name, make in methods.items()}
    # One row where the best scale of the grid is the paper's.
    rows = {row.label: row for row in (*unguided(subject), *papers.values(), *best.values())}
    control = momentum_of_equal_norm(study, best["SEG sigma inf"])
    if control is not None:
        rows[control.label] = control
    drawn = study.draw("seg-table-1", list(rows.values()))
    measured = study.measure(drawn)
    ours = best["SEG sigma inf"].label
    claims = [
        Claim(
            "SEG brings samples without a prompt closer to real pictures, at the paper's scale.",
            _SOURCE,
            papers["SEG sigma inf"].label,
            UNGUIDED.label,
        ),
        Claim(
            "SEG brings samples without a prompt closer to real pictures, at its best scale.",
            _SOURCE,
            ours,
            UNGUIDED.label,
        ),
        Claim("SEG is closer than SAG, each at its best scale.", _SOURCE, ours, best["SAG"].label),
        Claim("SEG is closer than PAG, each at its best scale.", _SOURCE, ours, best["PAG"].label),
        Claim(
            "An infinite sigma is closer than sigma 10, each at its best scale.",
            _SOURCE,
            ours,
            best["SEG sigma 10"].label,
        ),
        *(
            Claim(
                f"SEG changes the picture less than {peer}, at the paper's scales.",
                "SEG, section 5.4",
                papers["SEG sigma inf"].label,
                papers[peer].label,
                study.pair_metric,
            )
            for peer in ("SAG", "PAG")
        ),
    ]
    if control is not None:
        claims.append(
            Claim(
                "SEG is more than an extrapolation of the same norm (momentum of the prediction).",
                "this package's control",
                ours,
                control.label,
            )
        )
    return Section(
        "Without a prompt: SEG, SAG and PAG",
        "No prompt and no classifier-free guidance. Each method is at the paper's scale and at the "
        f"best of {', '.join(f'{scale:g}' for scale in subject.scales)}, chosen on other seeds by "
        "the same distance.",
        [
            measured.table("Samples without a prompt."),
            chosen.plot,
            *verdicts(measured, claims),
            published_table(SEG_TABLE_1, "SEG, Table 1, as published."),
        ],
        anchor="seg-table-1",
        source=_SOURCE,
    )


SEG_TABLE_1_EXPERIMENT = Experiment(
    "seg-table-1",
    _SOURCE,
    "Does SEG beat vanilla sampling, SAG and PAG without a prompt?",
    _run,
)
