"""Table 3 of [Re]: kernel sizes, moving averages and box blurs, in the first third of the steps."""

from __future__ import annotations

__all__ = ["RE_TABLE_3_EXPERIMENT"]

from typing import TYPE_CHECKING

from .claims import Claim, verdicts
from .controls import momentum_of_equal_norm
from .experiment import Experiment
from .guidances import seg
from .published import RE_TABLE_3
from .published_table import published_table
from .row import UNGUIDED, Row
from .study import Study
from .subject import Subject

if TYPE_CHECKING:
    from ..report.page import Section

_SOURCE = "[Re], Table 3"

_DECAYS = (0.6, 0.85, 0.95, 0.99)


def smoothers(subject: Subject, scale: float, steps: str = "begin") -> dict[str, Row]:
    """The rows of the table by their names there, but for the sizes of kernels."""
    blurs = {f"EMA {decay:g}": f"ema:{decay:g}" for decay in _DECAYS}
    for kernel in subject.kernels[:-1]:
        blurs[f"Gaussian, sigma 10, kernel {kernel}"] = f"gaussian:10,kernel={kernel}"
    blurs["Gaussian, sigma 10, full kernel"] = "gaussian:10"
    blurs["Gaussian, sigma inf"] = "gaussian:inf"
    for kernel in subject.box_kernels:
        blurs[f"box, alpha 0.9, kernel {kernel}"] = f"box:{kernel},alpha=0.9"
    return {
        name: seg(subject, blur, scale, steps=steps, label=name) for name, blur in blurs.items()
    }


def _run(study: Study) -> Section:
    from ..report.page import Section  # noqa: PLC0415 - only when a page is made

    study.check_tables()
    subject = study.subject
    rows = smoothers(subject, subject.paper_scale)
    everywhere = seg(
        subject, "gaussian:inf", subject.paper_scale, label="Gaussian, sigma inf, all steps"
    )
    best = rows["Gaussian, sigma inf"]
    control = momentum_of_equal_norm(study, best, steps="begin")
    controls = [] if control is None else [control]
    drawn = study.draw("re-table-3", [UNGUIDED, *rows.values(), everywhere, *controls])
    measured = study.measure(drawn)
    names = list(rows)
    gaussians = [name for name in names if name.startswith("Gaussian, sigma 10")]
    boxes = [name for name in names if name.startswith("box")]
    claims = [
        Claim(
            "The size of the kernel matters: a full one is better than the smallest.",
            _SOURCE,
            gaussians[-1],
            gaussians[0],
        ),
        Claim(
            "A moving average is better than the Gaussian of sigma 10.",
            _SOURCE,
            "EMA 0.95",
            gaussians[-1],
        ),
        Claim("A box blur is better than the smallest Gaussian.", _SOURCE, boxes[-1], gaussians[0]),
        Claim(
            "Guidance in the first third is as good as in all steps, or better.",
            "[Re], abstract",
            "Gaussian, sigma inf",
            everywhere.label,
        ),
        Claim(
            "Guidance in the first third is better than none.",
            _SOURCE,
            "Gaussian, sigma inf",
            UNGUIDED.label,
        ),
        *(
            Claim(
                "Guidance in the first third is more than an extrapolation of the same norm there.",
                "this package's control",
                best.label,
                control.label,
            )
            for control in controls
        ),
    ]
    height, width = subject.grid
    return Section(
        "Cheaper smoothers and sizes of kernels",
        f"No prompt, guided in the first third of the steps, scale {subject.paper_scale:g}. The "
        f"middle layers have {height} x {width} tokens, so kernels of "
        f"{', '.join(map(str, subject.kernels))} stand for the paper's 3, 17, 31 and full.",
        [
            measured.table("Smoothers in the first third of the steps."),
            *verdicts(measured, claims),
            published_table(RE_TABLE_3, "[Re], Table 3, as published."),
        ],
        anchor="re-table-3",
        source=_SOURCE,
    )


RE_TABLE_3_EXPERIMENT = Experiment(
    "re-table-3",
    _SOURCE,
    "Does the size of the kernel matter, and are cheaper smoothers as good?",
    _run,
)
