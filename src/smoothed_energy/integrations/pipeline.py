"""Guidance of the runs of one pipeline.

A pipeline that guidance is attached to becomes, until it is detached, an instance of a subclass of
its own class that differs in `__call__` alone: it marks the beginning and the end of a run. The
denoiser is patched only while such a run lasts, and only calls that belong to the run are guided,
so another pipeline that shares the denoiser never notices, in whatever thread it runs. (What a
step's callback calls does not belong to the run.)
"""

from __future__ import annotations

__all__ = ["find_denoiser", "find_denoisers", "pipeline_session"]

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


class _PipelineSession(Session):
    """Guidance on a pipeline: it acts in the runs of this one pipeline."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.target_name = type(pipeline).__name__
        self._running = threading.Lock()

    @override
    def _open(self) -> None:
        vars(self.pipeline)[_SESSION] = self
        cls = _unmarked(type(self.pipeline))
        marking = _marking_runs(cls, cls.__call__)
        object.__setattr__(self.pipeline, "__class__", marking)

    @override
    def _close(self) -> None:
        object.__setattr__(self.pipeline, "__class__", _unmarked(type(self.pipeline)))
        del vars(self.pipeline)[_SESSION]

    @override
    def warn_if_idle(self, attachment: Attachment) -> None:
        pass  # Every run of a pipeline has its own end.

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of the pipeline has no guidance."""

    @contextmanager
    def run(self, arguments: Mapping[str, Any]) -> Iterator[None]:
        """One call of the pipeline with these arguments."""
        refuse_own_guidance(self.pipeline, arguments)
        if not self._running.acquire(blocking=False):
            raise RuntimeError(
                f"this {self.target_name} is generating already; a pipeline's scheduler holds the "
                "state of one run, so use one pipeline a thread (they may share the denoiser)"
            )
        try:
            denoisers = find_denoisers(self.pipeline)
            for denoiser in denoisers:
                if has_own_guidance(denoiser):
                    raise RuntimeError(
                        f"the {type(denoiser).__name__} of this {self.target_name} has guidance of "
                        "its own attached; attach to the pipeline or to the denoiser, not to both"
                    )
            run = GuidedRun(*denoisers, observers=self.observers)
            for observer in self.observers:
                observer.begin()

            def route(call: ModuleCall) -> Any:
                state = run.states.get(call.module)
                if state is None:
                    return route_elsewhere(call)
                context = _PipelineStep(self.pipeline, arguments, call, state.runner.family)
                return state.call(call, self.participants, context)

            with patched(denoisers, DENOISER), holding(DENOISER.current, route):
                yield
        finally:
            self._running.release()
        self._finish(run)

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


# The older one is in the signature of few pipelines, and a keyword argument of many.
_CALLBACKS = ("callback_on_step_end", "callback")
_SESSION = "_smoothed_energy_session"
_ORIGINAL = "_smoothed_energy_original"


def _existing_session(pipeline: Any) -> _PipelineSession | None:
    session = vars(pipeline).get(_SESSION)
    # A copy of a pipeline carries the attribute, but the attachments are not its own.
    if isinstance(session, _PipelineSession) and session.pipeline is pipeline:
        return session
    return None


def pipeline_session(pipeline: Any) -> Session:
    """The session of a pipeline, new if nothing is attached to it."""
    return _existing_session(pipeline) or _PipelineSession(pipeline)


def _unmarked(cls: type) -> type:
    """A pipeline's own class: what `_marking_runs` made a class from, or the class itself."""
    original: type = vars(cls).get(_ORIGINAL, cls)
    return original


@functools.lru_cache(maxsize=16)
def _marking_runs(cls: type, original: Callable[..., Any]) -> type:
    """A subclass of a pipeline's class, of the same name, whose calls are runs of its session."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        session = _existing_session(self)
        if session is None:
            return original(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        # As they were given, since a wrapper may show a signature that is not quite its own.
        given = [self, *args]
        for place, name in enumerate(signature.parameters):
            if name in _CALLBACKS and place < len(given):
                given[place] = _outside_of_run(given[place])
        kwargs |= {name: _outside_of_run(kwargs[name]) for name in _CALLBACKS if name in kwargs}
        with session.run(bound.arguments):
            return original(*given, **kwargs)

    # Saving writes the class's name, and other pipelines are built by it.
    same = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (cls,), {"__call__": call, _ORIGINAL: cls, **same})


def _outside_of_run(callback: Any) -> Any:
    """A callback that is no part of the run, since it may generate with the same denoiser.

    Objects of diffusers' callback classes are left as they are, since pipelines look at the class.
    """
    # A running pipeline has imported these; this package need not.
    from diffusers.callbacks import (
        MultiPipelineCallbacks,
        PipelineCallback,
    )

    if not callable(callback) or isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        return callback

    @functools.wraps(callback)
    def call(*args: Any, **kwargs: Any) -> Any:
        with holding(DENOISER.current, None):
            return callback(*args, **kwargs)

    return call
