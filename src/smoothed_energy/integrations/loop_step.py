"""A step as the owner of a loop describes it."""

from __future__ import annotations

__all__ = ["LoopStep"]

from dataclasses import dataclass
from typing import get_args

from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout, Formulation
from ..denoisers.prediction import OutputKind
from ..engine.context import StepContext
from ..schedule import StepPosition
from ..settings.checks import check_choice, check_count
from ..settings.conversion import set_field


@dataclass(frozen=True)
class LoopStep(StepContext):
    """A step of a loop that calls a denoiser itself; see `Attachment.step`.

    Args:
        at: Where the step is in its schedule.
        conditional_rows: How many rows, the last ones, are conditional; None: all, each by itself.
        rescale_scale: CFG's scale if the loop rescales by the conditional rows, else None.
        cfg_scale: CFG's scale, None if it is not told.
        kind: What the denoiser predicts.
        branch: Which of two calls the next one is; None if there is one call for all rows.
        next_sigma: The noise level after the step; None if it is not told.

    Raises:
        ValueError: If these contradict each other.
    """

    at: StepPosition
    conditional_rows: int | None
    rescale_scale: float | None
    cfg_scale: float | None
    kind: OutputKind
    branch: Formulation | None
    next_sigma: float | None = None

    def __post_init__(self) -> None:
        size, rescale_scale = self.conditional_rows, self.rescale_scale
        if size is not None:
            set_field(self, "conditional_rows", check_count("conditional_rows", size))
        if rescale_scale is not None and (size is None or rescale_scale == 1):
            raise ValueError(
                f"rescale_scale={rescale_scale!r} with conditional_rows={size!r}: expected CFG's "
                "scale, not 1, and the number of conditional rows; without CFG leave it out"
            )
        if self.branch is None:
            return
        check_choice("branch", self.branch, get_args(Formulation))
        if size is not None or self.cfg_scale is None or self.cfg_scale == 1:
            raise ValueError(
                f"branch={self.branch!r} with cfg_scale={self.cfg_scale!r} and "
                f"conditional_rows={size!r}: expected CFG's scale, not 1, and no number of rows, "
                "since all of them are of one branch; without CFG leave branch out"
            )

    @override
    def position(self) -> StepPosition:
        return self.at

    @override
    def output_kind(self) -> OutputKind:
        return self.kind

    @override
    def rescales(self) -> bool:
        return self.rescale_scale is not None

    @override
    def next_noise(self) -> float:
        if self.next_sigma is None:
            raise ValueError("expected next_sigma= in step() of the attachment")
        return self.next_sigma

    @override
    def layout(self, rows: int) -> BatchLayout:
        if self.branch is not None:
            return BatchLayout(separate=True, cfg_scale=self.cfg_scale)
        size = self.conditional_rows
        if size is None:
            return BatchLayout()
        if rows % size:
            raise ValueError(
                f"conditional_rows={size} does not divide the batch of {rows} rows; expected the "
                "last rows to be conditional, and as many, or a multiple, to be unconditional"
            )
        groups = rows // size
        if groups == 1:
            return BatchLayout()
        return BatchLayout(
            groups,
            conditional=groups - 1,
            rescale_scale=self.rescale_scale,
            cfg_scale=self.cfg_scale,
        )
