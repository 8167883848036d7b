"""SEG, Table 2: with prompts, for every sigma; and CFG at the matched scale beside it."""

from __future__ import annotations

__all__ = ["SEG_TABLE_2_EXPERIMENT"]

from typing import TYPE_CHECKING

from .claims import Claim, verdicts
from .controls import matched_cfg
from .experiment import Experiment
from .guidances import seg
from .published import SEG_TABLE_2
from .published_table import published_table
from .row import UNGUIDED, Row
from .study import Study

if TYPE_CHECKING:
    from ..report.page import Section

_SOURCE = "SEG, Table 2"
_CONTROL = "this package's control (after arXiv 2602.22570)"


def _run(study: Study) -> Section:
    from ..report.page import Section  # noqa: PLC0415 - only when a page is made

    study.check_tables(captions=True)
    subject = study.subject
    scales = dict.fromkeys((subject.mild_scale, subject.paper_scale))
    by_scale = {scale: [seg(subject, blur, scale) for blur in subject.sigmas] for scale in scales}
    strongest = {scale: rows[-1] for scale, rows in by_scale.items()}
    matched = {scale: matched_cfg(study, row, captions=True) for scale, row in strongest.items()}
    usual = Row(f"CFG {subject.cfg:g}", cfg=subject.cfg)
    both = strongest[subject.mild_scale].with_cfg(subject.cfg)
    both = Row(f"{both.label}, with CFG {subject.cfg:g}", both.guidance, both.cfg)
    with_both = matched_cfg(study, both, captions=True)
    rows = [UNGUIDED]
    for scale in scales:
        rows += [*by_scale[scale], *filter(None, [matched[scale]])]
    rows += [usual, both, *filter(None, [with_both])]
    drawn = study.draw_captioned("seg-table-2", rows, range(study.samples))
    measured = study.measure(drawn)
    mild = by_scale[subject.mild_scale]
    claims = [
        Claim(
            "With prompts, SEG brings samples closer to real pictures.",
            _SOURCE,
            mild[-1].label,
            UNGUIDED.label,
        ),
        Claim(
            "The same at the paper's scale.",
            _SOURCE,
            strongest[subject.paper_scale].label,
            UNGUIDED.label,
        ),
        Claim(
            "A wider blur is closer: infinity against the narrowest.",
            _SOURCE,
            mild[-1].label,
            mild[0].label,
        ),
        Claim(
            f"SEG makes pictures show more of what the prompt says ({study.text_metric}).",
            _SOURCE,
            mild[-1].label,
            UNGUIDED.label,
            study.text_metric,
            "higher",
        ),
        *(
            Claim(text, _CONTROL, row.label, control.label)
            for text, row, control in (
                (
                    "SEG is closer to real pictures than CFG at the same effective scale.",
                    mild[-1],
                    matched[subject.mild_scale],
                ),
                (
                    "Beside CFG, SEG is closer than CFG alone at the same effective scale.",
                    both,
                    with_both,
                ),
            )
            if control is not None
        ),
    ]
    return Section(
        "With prompts: every sigma, and CFG at the matched scale",
        "Every sample has a caption of its own. Rows of SEG have no classifier-free guidance "
        "unless they say so. *Matched* rows are plain classifier-free guidance at the effective "
        "scale that was measured in runs of the row above them.",
        [
            measured.table("Samples with prompts."),
            measured.plot_over(
                mild,
                "sigma",
                [blur.removeprefix("gaussian:") for blur in subject.sigmas],
                "The distance over sigma, at the mild scale.",
            ),
            *verdicts(measured, claims),
            published_table(SEG_TABLE_2, "SEG, Table 2, as published."),
        ],
        anchor="seg-table-2",
        source=_SOURCE,
    )


SEG_TABLE_2_EXPERIMENT = Experiment(
    "seg-table-2",
    _SOURCE,
    "Is a larger sigma better with prompts, and is it more than a larger CFG?",
    _run,
)
