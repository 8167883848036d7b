"""Guidance of a bare denoiser, which somebody calls in a loop of their own."""

from __future__ import annotations

__all__ = ["DenoiserSession", "denoiser_session"]

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch import nn

from ..denoisers.cfg_batch import BatchLayout, Formulation
from ..denoisers.prediction import OutputKind
from ..engine.step import Run
from ..engine.summary import GuidanceWarning, warn_if_idle
from ..intercept.patching import patched
from ..schedule.steps import StepPosition
from .dispatch import denoiser_sessions, route_denoiser
from .loop_step import LoopStep
from .session import Session

if TYPE_CHECKING:
    from .attachment import Attachment


class DenoiserSession(Session):
    """Guidance on a bare denoiser: it acts in every call, as its owner's loop describes it."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.target_name = type(denoiser).__name__
        self._run = Run(denoiser)
        self._patches = ExitStack()
        self._step: LoopStep | None = None
        self._warned = False

    def _open(self) -> None:
        self._patches.enter_context(patched([self.denoiser], route_denoiser))
        denoiser_sessions[self.denoiser] = self

    def _close(self) -> None:
        del denoiser_sessions[self.denoiser]
        self._patches.close()

    def warn_if_idle(self, attachment: Attachment) -> None:
        """See `Session.warn_if_idle`."""
        warn_if_idle(attachment.guidance, attachment.last_run)

    def set_step(self, step: LoopStep) -> None:
        """See `Attachment.step`."""
        if step.branch == "conditional":
            self._run.skip_unconditional()
        if step.position.index == 0 and step.branch != "unconditional":
            self._run.begin()
        self._step = step

    def call(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """One call of the denoiser by whoever calls it."""
        self._run.find_layers_again()
        if self._step is None:
            self._warn_of_rows(len(self._run.guided[self.denoiser].sample(args, kwargs)))
        elif self._step.branch is not None:
            self._check_branch(self._step.branch)
        output = self._run.call(
            self.denoiser,
            self.attachments,
            self._here,
            self._layout,
            OutputKind() if self._step is None else self._step.kind,
            forward,
            args,
            kwargs,
        )
        for attachment in self.attachments:
            attachment.last_run = self._run.summary(attachment)
        return output

    def _warn_of_rows(self, rows: int) -> None:
        # A batch [u, c] of a pipeline looks the same, and would be guided wrongly.
        guided = (item.guidance for item in self.attachments if not item.guidance.limits_cfg)
        if rows == 1 or self._warned or all(guidance.is_off for guidance in guided):
            return
        self._warned = True
        warnings.warn(
            f"each of the {rows} rows of this batch is guided by itself, since nothing says what "
            "they are; under classifier-free guidance attach to the pipeline, or call "
            "step(index, count, conditional_rows=...) of the attachment before the denoiser",
            GuidanceWarning,
            stacklevel=8,
        )

    def _check_branch(self, branch: Formulation) -> None:
        waiting = self._run.waits_for_unconditional(self.denoiser)
        if branch == "conditional" and waiting:
            raise RuntimeError(
                "the denoiser was called with the prompt before; expected the call without the "
                'prompt next, after step(..., branch="unconditional")'
            )
        guides = self._run.guides(self.denoiser, self.attachments, self._here)
        if branch == "unconditional" and not waiting and guides:
            raise RuntimeError(
                "the denoiser is called without the prompt; expected the call with the prompt "
                'before it, after step(..., branch="conditional")'
            )

    def _here(self) -> StepPosition:
        if self._step is None:
            raise RuntimeError(
                "guidance on a bare denoiser can't know the denoising step; call "
                "step(index, count) of the attachment before the denoiser, or use a guidance that "
                'is alike at all steps (steps="all", and nothing else that changes with time)'
            )
        return self._step.position

    def _layout(self, rows: int) -> BatchLayout:
        return BatchLayout() if self._step is None else self._step.layout(rows)


def denoiser_session(denoiser: nn.Module) -> DenoiserSession:
    """The session of a denoiser, new if nothing is attached to it."""
    return denoiser_sessions.get(denoiser) or DenoiserSession(denoiser)
