"""Figures 6 to 8 of [Re]: norm, Laplacian variance, gradient entropy of hidden states by step."""

from __future__ import annotations

__all__ = ["RE_TRACES"]

from typing import TYPE_CHECKING

from .experiment import Experiment
from .guidances import seg
from .row import UNGUIDED, Row
from .study import Study
from .traced import trace_rows

if TYPE_CHECKING:
    from ..report.page import Section

_METRICS = {
    "frobenius_norm": ("re-figure-6", "Figure 6", "Frobenius norm", "equation 11"),
    "laplacian_variance": ("re-figure-7", "Figure 7", "Laplacian variance", "equation 12"),
    "gradient_entropy": ("re-figure-8", "Figure 8", "gradient entropy", "equations 13 to 15"),
}


def rows_of(study: Study) -> list[Row]:
    """The smoothers that the figures compare, in the first third of the steps; one in all."""
    subject = study.subject
    blurs = {
        "Gaussian, sigma 10": "gaussian:10",
        "EMA 0.95": "ema:0.95",
        "box, alpha 0.9": f"box:{subject.box_kernels[-1]},alpha=0.9",
    }
    scale = subject.paper_scale
    return [
        UNGUIDED,
        *(seg(subject, blur, scale, steps="begin", label=name) for name, blur in blurs.items()),
        seg(subject, "gaussian:10", scale, label="Gaussian, sigma 10, all steps"),
    ]


def _experiment(metric: str) -> Experiment:
    name, figure, words, equations = _METRICS[metric]

    def run(study: Study) -> Section:
        from ..report.page import (  # noqa: PLC0415 - only when a page is made
            Line,
            Number,
            PlotAxes,
            Section,
            line_plot,
        )

        lines, numbers = [], {}
        for label, traced in trace_rows(study, rows_of(study), [metric]).items():
            table = traced.layers[traced.layers["branch"] == "conditional"]
            by_picture = table.groupby(["step", "sample"])[metric].mean().unstack()
            values: list[float | Number] = []
            for _, runs in by_picture.iterrows():
                values.append(Number(runs.mean(), runs.min(), runs.max()))
            lines.append(Line(label, list(range(len(values))), values))
            numbers[label] = [float(runs.mean()) for _, runs in by_picture.iterrows()]
        study.keep(metric, numbers)
        plot = line_plot(
            lines,
            PlotAxes("step", words),
            f"Mean over the layers `{study.subject.layers}` and over runs; the band reaches from "
            "the least to the greatest run.",
        )
        return Section(
            f"{words[0].upper()}{words[1:]} of hidden states",
            f"{words[0].upper()}{words[1:]} ({equations}) of the hidden states after attention and "
            "normalisation, per channel, then averaged; no prompt, the same noise in all lines.",
            [plot],
            anchor=name,
            source=f"[Re], {figure}",
        )

    return Experiment(name, f"[Re], {figure}", f"How does the {words} change by step?", run)


#: One experiment for each figure.
RE_TRACES = tuple(map(_experiment, _METRICS))
