"""Guidance of a bare denoiser, which somebody calls in a loop of their own."""

from __future__ import annotations

__all__ = ["DenoiserSession", "denoiser_session", "existing_denoiser_session"]

from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout, Formulation
from ..denoisers.prediction import OutputKind
from ..engine.context import StepContext
from ..engine.run import GuidedRun
from ..engine.summary import GuidanceWarning, warn_if_idle
from ..intercept.module_call import ModuleCall
from ..intercept.patching import patched
from ..schedule import StepPosition
from ..settings.warning_place import warn_caller
from .attachment import Attachment, Session
from .dispatch import DENOISER
from .loop_step import LoopStep

# A loop that says nothing of its steps never ends; now and then it has to wait for the check.
_MOST_SEEN = 1000


class _UnknownStep(StepContext):
    """A step of which the owner of the loop has said nothing: all rows are guided alike."""

    @override
    def position(self) -> StepPosition:
        raise RuntimeError(
            "guidance on a bare denoiser can't know the denoising step; call "
            "step(index, count) of the attachment before the denoiser, or use a guidance that "
            'is alike at all steps (steps="all", and nothing else that changes with time)'
        )

    @override
    def layout(self, rows: int) -> BatchLayout:
        return BatchLayout()

    @override
    def output_kind(self) -> OutputKind:
        return OutputKind()


class DenoiserSession(Session):
    """Guidance on a bare denoiser: it acts in every call, as its owner's loop describes it."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.target_name = type(denoiser).__name__
        self._run = GuidedRun(denoiser, observers=self.observers)
        self._state = self._run.states[denoiser]
        self._patches = ExitStack()
        self._step: LoopStep | None = None
        self._warned = False

    @property
    @override
    def denoisers(self) -> tuple[nn.Module, ...]:
        return (self.denoiser,)

    @override
    def renewed(self) -> Session:
        return denoiser_session(self.denoiser)

    @override
    def _open(self) -> None:
        self._patches.enter_context(patched([self.denoiser], DENOISER))
        DENOISER.own[self.denoiser] = self._call
        _sessions[self.denoiser] = self

    @override
    def _close(self) -> None:
        del _sessions[self.denoiser]
        del DENOISER.own[self.denoiser]
        self._patches.close()

    @override
    def conclude(self, attachment: Attachment) -> None:
        warn_if_idle(attachment.guidance, attachment.last_run)
        self._run.check()

    @override
    def set_step(self, step: LoopStep) -> None:
        if step.branch == "conditional":
            self._state.skip_unconditional()
        if step.at.index == 0 and step.branch != "unconditional":
            self._run.check()
            self._run.begin()
        self._step = step

    def _call(self, call: ModuleCall) -> Any:
        """One call of the denoiser by whoever calls it."""
        self._state.find_layers_again()
        step = self._step
        if step is None:
            self._warn_of_rows(len(self._state.runner.sample(call)))
        elif step.branch is not None:
            self._check_branch(step, step.branch)
        output = self._run.call(call, self.participants, _UnknownStep() if step is None else step)
        for attachment in self.attachments:
            attachment.last_run = self._run.summary(attachment.participant)
        if len(self._run.progress.seen) > _MOST_SEEN:
            self._run.check()
        return output

    def _warn_of_rows(self, rows: int) -> None:
        # A batch [u, c] of a pipeline looks the same, and would be guided wrongly.
        if rows == 1 or self._warned:
            return
        guided = [item.guidance for item in self.attachments if not item.guidance.limits_cfg]
        acts = not all(guidance.is_off for guidance in guided)
        if not acts and not self.observers:
            return
        self._warned = True
        done = "is guided" if acts else "counts as a picture"
        warn_caller(
            f"each of the {rows} rows of this batch {done} by itself, since nothing says what "
            "they are; under classifier-free guidance attach to the pipeline, or call "
            "step(index, count, conditional_rows=...) of the attachment before the denoiser",
            GuidanceWarning,
        )

    def _check_branch(self, step: LoopStep, branch: Formulation) -> None:
        waiting = self._state.waits
        if branch == "conditional" and waiting:
            raise RuntimeError(
                "the denoiser was called with the prompt before; expected the call without the "
                'prompt next, after step(..., branch="unconditional")'
            )
        if branch == "conditional" or waiting:
            return
        if self.observers or self._state.step(self.participants, step).corrects:
            raise RuntimeError(
                "the denoiser is called without the prompt; expected the call with the prompt "
                'before it, after step(..., branch="conditional")'
            )


_sessions: WeakKeyDictionary[nn.Module, DenoiserSession] = WeakKeyDictionary()


def existing_denoiser_session(denoiser: nn.Module) -> DenoiserSession | None:
    """The session of a denoiser; None if nothing is attached to it."""
    return _sessions.get(denoiser)


def denoiser_session(denoiser: nn.Module) -> DenoiserSession:
    """The session of a denoiser, new if nothing is attached to it."""
    return existing_denoiser_session(denoiser) or DenoiserSession(denoiser)
