"""Guidance of the runs of one pipeline.

The denoiser is patched only while a run of the pipeline lasts, and only calls that belong to the
run are guided, so another pipeline that shares the denoiser never notices, in whatever thread it
runs. (What a step's callback calls does not belong to the run.)
"""

from __future__ import annotations

__all__ = [
    "existing_pipeline_session",
    "find_denoiser",
    "find_denoisers",
    "pipeline_session",
]

import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.prediction import OutputKind
from ..engine.context import StepContext
from ..engine.run import GuidedRun
from ..engine.summary import GuidanceWarning, warn_if_idle
from ..families import Family
from ..intercept.module_call import ModuleCall
from ..intercept.patching import holding, patched
from ..schedule import StepPosition
from ..settings.warning_place import warn_caller
from .attachment import Attachment, Session
from .dispatch import DENOISER, has_own_guidance, route_elsewhere
from .marked_pipeline import RunOwner, mark_runs, refuse_in_mid_run, session_of, unmark_runs
from .pipeline_facts import (
    batch_layout,
    has_learned_variance,
    prediction_type,
    refuse_own_guidance,
    step_position,
)

# Wan 2.2 has a transformer for high noise and another one for low noise; either may be missing.
_DENOISERS = (("unet",), ("transformer", "transformer_2"))


def find_denoisers(pipeline: Any) -> tuple[nn.Module, ...]:
    """The denoisers of a `diffusers` pipeline: one, or one for each part of the schedule.

    Raises:
        TypeError: If it has none.
    """
    for names in _DENOISERS:
        found = [getattr(pipeline, name, None) for name in names]
        denoisers = tuple(dict.fromkeys([item for item in found if isinstance(item, nn.Module)]))
        if denoisers:
            return denoisers
    raise TypeError(
        f"can't attach guidance to a {type(pipeline).__name__}; expected a diffusers pipeline with "
        f"a {' or a '.join(names[0] for names in _DENOISERS)}, or a denoiser itself"
    )


def find_denoiser(pipeline: Any) -> nn.Module:
    """The denoiser of a `diffusers` pipeline, the first if it has several.

    Raises:
        TypeError: If it has none.
    """
    return find_denoisers(pipeline)[0]


class _PipelineStep(StepContext):
    """The step in which a running pipeline calls its denoiser.

    Args:
        pipeline: The pipeline.
        arguments: The arguments of its `__call__`.
        call: The call of the denoiser.
        family: The family of the denoiser.
    """

    def __init__(
        self, pipeline: Any, arguments: Mapping[str, Any], call: ModuleCall, family: Family
    ) -> None:
        self.pipeline, self.arguments, self.call, self.family = pipeline, arguments, call, family
        self._position: StepPosition | None = None

    @override
    def position(self) -> StepPosition:
        if self._position is None:
            timestep = self.call.argument("timestep")
            self._position = step_position(self.pipeline, self.call.module, timestep, self.family)
        return self._position

    @override
    def layout(self, rows: int) -> BatchLayout:
        return batch_layout(
            self.pipeline, self.call.module, self.arguments, self.position, self.family
        )

    @override
    def output_kind(self) -> OutputKind:
        return OutputKind(
            has_learned_variance(self.pipeline), prediction_type(self.pipeline, self.call.module)
        )


class _PipelineSession(Session, RunOwner):
    """Guidance on a pipeline: it acts in the runs of this one pipeline."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.target_name = type(pipeline).__name__
        self._running = threading.Lock()
        self._run: GuidedRun | None = None

    @property
    @override
    def denoisers(self) -> tuple[nn.Module, ...]:
        return find_denoisers(self.pipeline)

    @property
    @override
    def is_running(self) -> bool:
        return self._run is not None

    @override
    def renewed(self) -> Session:
        return pipeline_session(self.pipeline)

    @override
    def remove(self, attachment: Attachment) -> None:
        if self._run is not None:
            attachment.last_run = self._run.summary(attachment.participant)
        super().remove(attachment)

    @override
    def _open(self) -> None:
        refuse_in_mid_run(self.pipeline)
        mark_runs(self.pipeline, self)

    @override
    def _close(self) -> None:
        unmark_runs(self.pipeline)

    @override
    def warn_if_idle(self, attachment: Attachment) -> None:
        pass  # Every run of a pipeline has its own end.

    @override
    def run(self, arguments: Mapping[str, Any], generate: Callable[[], Any]) -> Any:
        refuse_own_guidance(self.pipeline, arguments)
        if not self._running.acquire(blocking=False):
            raise RuntimeError(
                f"this {self.target_name} is generating already; a pipeline's scheduler holds the "
                "state of one run, so use one pipeline a thread (they may share the denoiser)"
            )
        try:
            denoisers = self.denoisers
            for denoiser in denoisers:
                self._refuse_both(denoiser)
            run = GuidedRun(*denoisers, observers=self.observers)
            for observer in self.observers:
                observer.begin()

            def route(call: ModuleCall) -> Any:
                state = run.states.get(call.module)
                if state is None:
                    return route_elsewhere(call)
                self._refuse_both(call.module)  # a callback may have attached to it
                context = _PipelineStep(self.pipeline, arguments, call, state.runner.family)
                return state.call(call, self.participants, context)

            self._run = run
            with patched(denoisers, DENOISER), holding(DENOISER.current, route):
                result = generate()
        finally:
            self._run = None
            self._close_last()
            self._running.release()
        self._finish(run)
        return result

    def _refuse_both(self, denoiser: nn.Module) -> None:
        if has_own_guidance(denoiser):
            raise RuntimeError(
                f"the {type(denoiser).__name__} of this {self.target_name} has guidance of "
                "its own attached; attach to the pipeline or to the denoiser, not to both"
            )

    def _finish(self, run: GuidedRun) -> None:
        """Say what a run did, and warn if it was to be guided and was not."""
        attachments = tuple(self.attachments)
        for attachment in attachments:
            attachment.last_run = run.summary(attachment.participant)
        if attachments and not run.calls:
            warn_caller(
                f"the {type(next(iter(run.states))).__name__} was not called, or its forward "
                "function was replaced, in this run, so the result is unguided",
                GuidanceWarning,
            )
        for attachment in attachments:
            warn_if_idle(attachment.guidance, attachment.last_run)


def existing_pipeline_session(pipeline: Any) -> _PipelineSession | None:
    """The session of a pipeline; None if nothing is attached to it."""
    session = session_of(pipeline)
    return session if isinstance(session, _PipelineSession) else None


def pipeline_session(pipeline: Any) -> Session:
    """The session of a pipeline, new if nothing is attached to it."""
    return existing_pipeline_session(pipeline) or _PipelineSession(pipeline)
