"""The guidances of the two papers as texts, for any subject."""

from __future__ import annotations

__all__ = ["blur_label", "pag", "sag", "seg", "unguided"]

from .row import UNGUIDED, Row, unguided_by
from .subject import Subject


def seg(  # noqa: PLR0913 - the settings of a row
    subject: Subject,
    blur: str,
    scale: float,
    *,
    layers: str | None = None,
    steps: str = "all",
    side: str = "query",
    label: str = "",
) -> Row:
    """A row with smoothed energy guidance.

    Args:
        subject: Whose layers are used.
        blur: The smoothing, as a text.
        scale: The scale.
        layers: Other layers.
        steps: The guided steps.
        side: What is blurred: `"query"` or `"key"`.
        label: Its label; by default the blur and the scale.
    """
    layers = subject.layers if layers is None else layers
    text = f"seg; blur={blur}; scale={scale:g}; layers={layers}"
    if steps != "all":
        text += f"; steps={steps}"
    if side != "query":
        text += f"; on={side}"
    return Row(label or f"SEG {blur_label(blur)}, scale {scale:g}", (text,))


def pag(subject: Subject, scale: float, *, label: str = "") -> Row:
    """A row with perturbed-attention guidance."""
    text = f"pag; scale={scale:g}; layers={subject.layers}"
    return Row(label or f"PAG, scale {scale:g}", (text,))


def sag(subject: Subject, scale: float, *, label: str = "") -> Row:
    """A row with self-attention guidance, with the scheduler that the SEG paper uses for it."""
    text = f"sag; scale={scale:g}"
    label = label or f"SAG, scale {scale:g}"
    if subject.sag_scheduler is None:
        return Row(label, (text,))
    other = unguided_by(subject.sag_scheduler)
    return Row(label, (text,), scheduler=other.scheduler, baseline=other.label)


def unguided(subject: Subject) -> list[Row]:
    """The unguided rows of a comparison that has SAG in it: one for each scheduler."""
    if subject.sag_scheduler is None:
        return [UNGUIDED]
    return [UNGUIDED, unguided_by(subject.sag_scheduler)]


def blur_label(blur: str) -> str:
    """A blur in a few words."""
    kind, _, rest = blur.partition(":")
    first, *more = rest.split(",")
    names = {"gaussian": "sigma", "box": "box", "ema": "EMA"}
    words = f"{names.get(kind, kind)} {first}"
    for part in more:
        words += f", {part.replace('=', ' ')}"
    return words
