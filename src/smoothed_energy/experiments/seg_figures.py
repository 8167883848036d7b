"""SEG, its figures of pictures: sigmas, prompts, peers, CFG."""

from __future__ import annotations

__all__ = ["SEG_FIGURES"]

from collections.abc import Mapping

from .guidances import pag, sag, seg, unguided
from .picture_experiment import Figure, picture_experiment
from .row import UNGUIDED, Row
from .study import Study


def _sigmas(study: Study) -> list[Row]:
    subject = study.subject
    scales = dict.fromkeys((subject.paper_scale, subject.mild_scale))
    return [
        UNGUIDED,
        *(seg(subject, blur, scale) for scale in scales for blur in subject.sigmas),
    ]


def _peers(study: Study) -> list[Row]:
    subject = study.subject
    rows = unguided(subject)
    for scale in dict.fromkeys((subject.paper_scale, subject.mild_scale)):
        rows += [
            sag(subject, min(scale, 1.0)),
            pag(subject, scale),
            seg(subject, "gaussian:10", scale),
            seg(subject, "gaussian:inf", scale),
        ]
    return list({row.label: row for row in rows}.values())


def _sides(study: Study) -> list[Row]:
    subject = study.subject
    return [
        UNGUIDED,
        *(
            seg(
                subject,
                blur,
                subject.paper_scale,
                side=side,
                label=f"{side}, {blur.removeprefix('gaussian:')}",
            )
            for side in ("query", "key")
            for blur in subject.sigmas
        ),
    ]


def _side_axes(row: Row) -> list[Mapping[str, str]]:
    side, _, sigma = row.label.partition(", ")
    # The unguided picture stands before those of either side.
    sides = [side] if sigma else ["query", "key"]
    return [{"blurred": each, "sigma": sigma or "none"} for each in sides]


def _beside_cfg(study: Study) -> list[Row]:
    subject = study.subject
    rows = []
    for cfg in subject.cfg_scales:
        for scale in dict.fromkeys((0.0, subject.mild_scale, subject.paper_scale)):
            label = f"CFG {cfg:g}, SEG {scale:g}"
            row = seg(subject, "gaussian:inf", scale, label=label) if scale else Row(label)
            rows.append(Row(label, row.guidance, cfg))
    return rows


def _beside_cfg_axes(row: Row) -> list[Mapping[str, str]]:
    cfg, scale = row.label.split(", ")
    return [{"SEG scale": scale.removeprefix("SEG "), "CFG": cfg.removeprefix("CFG ")}]


def _same_cfg(row: Row) -> str:
    return f"{row.label.split(', ')[0]}, SEG 0"


#: The figures that show pictures, in the paper's order.
SEG_FIGURES = tuple(
    picture_experiment(figure)
    for figure in (
        Figure(
            "seg-figure-2",
            "SEG, Figures 2 and 13",
            "What does a larger sigma change without a prompt?",
            "Sigma, without a prompt",
            "The same noise under wider and wider blurs, no prompt and no CFG.",
            _sigmas,
        ),
        Figure(
            "seg-figure-3",
            "SEG, Figures 3 and 14",
            "What does a larger sigma change with prompts?",
            "Sigma, with prompts",
            "The same noise and prompt under wider and wider blurs, no CFG.",
            _sigmas,
            prompts="few",
        ),
        Figure(
            "seg-figure-5",
            "SEG, Figures 5, 8 and 9",
            "How do SAG, PAG and SEG differ to the eye?",
            "Beside SAG and PAG",
            "The same noise under every method, no prompt and no CFG.",
            _peers,
        ),
        Figure(
            "seg-figure-12",
            "SEG, Figure 12",
            "Does it matter whether queries or keys are blurred?",
            "Queries or keys",
            "Appendix B's dual blurs the keys. The same noise, the paper's scale, no prompt.",
            _sides,
            axes=_side_axes,
        ),
        Figure(
            "seg-figure-15",
            "SEG, Figures 15 to 19",
            "What does SEG do beside classifier-free guidance?",
            "Beside classifier-free guidance",
            "A fixed scale of SEG (0 is off) under rising scales of CFG (1 is off). Large pictures "
            "are compared with the same CFG alone.",
            _beside_cfg,
            axes=_beside_cfg_axes,
            baseline=_same_cfg,
            prompts="few",
        ),
    )
)
