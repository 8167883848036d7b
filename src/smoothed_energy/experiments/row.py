"""Rows of experiments: a way to draw, with the words that a page has for it."""

from __future__ import annotations

__all__ = ["UNGUIDED", "Row", "unguided_by"]

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Row:
    """A way to draw pictures.

    Args:
        label: What tables and pictures call it, unlike all others of its experiment.
        guidance: The guidances, as texts; none is unguided.
        cfg: The scale of classifier-free guidance; 1 is off.
        scheduler: The class of the scheduler, where it is not the subject's.
        controls: The label of the row that this one is the control of.
        baseline: The label of the unguided row that it is compared with, picture by picture: one
            with the same scheduler.
    """

    label: str
    guidance: tuple[str, ...] = ()
    cfg: float = 1.0
    scheduler: str | None = None
    controls: str | None = None
    baseline: str = "unguided"

    def with_cfg(self, cfg: float) -> Row:
        """The same with classifier-free guidance."""
        return replace(self, cfg=cfg)


#: No guidance at all.
UNGUIDED = Row("unguided")


def unguided_by(scheduler: str) -> Row:
    """No guidance, with another scheduler than the subject's."""
    label = f"unguided, {scheduler}"
    return Row(label, scheduler=scheduler, baseline=label)
