"""Guidance of the runs of one pipeline.

A pipeline that guidance is attached to becomes, until it is detached, an instance of a subclass of
its own class that differs in `__call__` alone: it marks the beginning and the end of a run. (What
is made of such a pipeline, as copies and pickles, has the pipeline's own class.) The denoiser is
patched only while such a run lasts, and only calls that belong to the run are guided, so another
pipeline that shares the denoiser never notices, in whatever thread it runs. (What a step's callback
calls does not belong to the run.)
"""

from __future__ import annotations

__all__ = [
    "existing_pipeline_session",
    "find_denoisers",
    "pipeline_session",
]

import copyreg
import functools
import inspect
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
from ..families import Family, UnknownDenoiser, family_or_unknown
from ..families.guider_cfg import check_guider
from ..guidance.guidance import Guidance
from ..intercept.module_call import ModuleCall
from ..intercept.patching import holding, patched
from ..schedule import StepPosition, following_noise
from ..settings.warning_place import warn_caller
from .attachment import Attachment, Session
from .dispatch import DENOISER, has_own_guidance, route_elsewhere
from .negative_text import encode_prompts, refuse_prompt
from .pipeline_facts import (
    batch_layout,
    has_learned_variance,
    prediction_type,
    refuse_own_guidance,
    scheduler_of,
    step_position,
    unconditional_denoisers,
)
from .pipeline_result import check_result
from .refused import NEVER, refuse_modular

# Wan 2.2 has a transformer for high noise and another one for low noise; either may be missing.
_DENOISERS = (("unet",), ("transformer", "transformer_2"))
# Stable Cascade, Wuerstchen and UnCLIP draw in stages, and Versatile Diffusion has two U-Nets.
# Other pipelines have such names, and nothing to guide.
_STAGES = ("decoder", "prior", "image_unet")


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
    for name in _STAGES:
        stage = getattr(pipeline, name, None)
        if not isinstance(stage, nn.Module):
            continue
        if not isinstance(family_or_unknown(stage), UnknownDenoiser):
            return (stage,)
    raise TypeError(
        f"can't attach guidance to a {type(pipeline).__name__}; expected a diffusers pipeline with "
        f"a {' or a '.join(names[0] for names in _DENOISERS)}, or a denoiser itself"
    )


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
            timestep = self.call.argument(self.family.time)
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

    @override
    def rescales(self) -> bool:
        rescale = getattr(self.pipeline, "guidance_rescale", None)
        return bool((self.arguments.get("guidance_rescale") if rescale is None else rescale) or 0)

    @override
    def next_noise(self) -> float:
        noise = self.arguments.get("eta") or 0.0
        return following_noise(scheduler_of(self.pipeline), self.position(), noise)


class _PipelineSession(Session):
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
    def check_prompt(self, guidance: Guidance) -> None:
        refuse_prompt(guidance, self.pipeline)

    @override
    def _open(self) -> None:
        _refuse_pipeline(self.pipeline)
        _refuse_in_mid_run(self.pipeline)
        _mark_runs(self.pipeline, self)

    @override
    def _close(self) -> None:
        _unmark_runs(self.pipeline)

    @override
    def conclude(self, attachment: Attachment) -> None:
        pass  # Every run of a pipeline has its own end.

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Whoever copies the attributes of the pipeline one by one copies no guidance."""

    def run(
        self,
        arguments: Mapping[str, Any],
        generate: Callable[[], Any],
        again: Callable[[Mapping[str, Any]], Any],
    ) -> Any:
        """One call of the pipeline.

        Args:
            arguments: The arguments of the call.
            generate: Makes it.
            again: Makes another one, with these arguments.
        """
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
            encode_prompts(self.pipeline, denoisers, self.participants, arguments, again)
            run = GuidedRun(*denoisers, observers=self.observers)
            for observer in self.observers:
                observer.begin()

            others = unconditional_denoisers(self.pipeline, run.states)

            def route(call: ModuleCall) -> Any:
                state = run.states.get(call.module) or others.get(call.module)
                if state is None:
                    return route_elsewhere(call)
                if call.module in DENOISER.own:  # a callback has attached to it
                    self._refuse_both(call.module)
                context = _PipelineStep(self.pipeline, arguments, call, state.runner.family)
                return state.call(call, self.participants, context)

            self._run = run
            with patched((*denoisers, *others), DENOISER), holding(DENOISER.current, route):
                result = generate()
        finally:
            self._run = None
            self._close_last()
            self._running.release()
        self._finish(run)
        check_result(self.pipeline, run, arguments, result)
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


# The older one is in the signature of few pipelines, and a keyword argument of many.
_CALLBACKS = ("callback_on_step_end", "callback")
_SESSION = "_smoothed_energy_session"
_ORIGINAL = "_smoothed_energy_original"


def _refuse_pipeline(pipeline: Any) -> None:
    """Refuse pipelines that can't be guided, whatever their arguments: asked when one attaches.

    Raises:
        RuntimeError: If it is one of them.
    """
    if getattr(pipeline, "_component_specs", None) is not None:
        refuse_modular(pipeline)
    guider = getattr(pipeline, "guider", None)
    if guider is not None:
        check_guider(guider)
    for cls in type(pipeline).__mro__:
        for part, reason in NEVER.items():
            if part in cls.__name__:
                raise RuntimeError(
                    f"guidance of a {type(pipeline).__name__} would come out wrong, since it "
                    f"{reason}; docs/pipelines.md lists the pipelines that work"
                )


def existing_pipeline_session(pipeline: Any) -> _PipelineSession | None:
    """The session of a pipeline; None if nothing is attached to it."""
    session = vars(pipeline).get(_SESSION)
    # Whoever copies the attributes of a pipeline copies this one, but it is not the copy's.
    if isinstance(session, _PipelineSession) and session.pipeline is pipeline:
        return session
    return None


def pipeline_session(pipeline: Any) -> Session:
    """The session of a pipeline, new if nothing is attached to it."""
    return existing_pipeline_session(pipeline) or _PipelineSession(pipeline)


def _mark_runs(pipeline: Any, session: _PipelineSession) -> None:
    """Make the calls of a pipeline runs of a session, until `_unmark_runs`."""
    vars(pipeline)[_SESSION] = session
    cls = _unmarked(type(pipeline))
    object.__setattr__(pipeline, "__class__", _marking_runs(cls, cls.__call__))


def _unmark_runs(pipeline: Any) -> None:
    """Make a pipeline what it was before `_mark_runs`."""
    object.__setattr__(pipeline, "__class__", _unmarked(type(pipeline)))
    del vars(pipeline)[_SESSION]


def _refuse_in_mid_run(pipeline: Any) -> None:
    """Refuse to begin with a pipeline that runs: its run began without a session.

    Raises:
        RuntimeError: If this is called from the pipeline's `__call__`, in a callback for instance.
    """
    code = getattr(inspect.unwrap(type(pipeline).__call__), "__code__", None)
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is code and pipeline is frame.f_locals.get(code.co_varnames[0]):
            raise RuntimeError(
                f"this {type(pipeline).__name__} is generating, and nothing was attached when it "
                "began, so the rest of the run can't be guided; attach before it, with steps= for "
                "the steps that are to be guided"
            )
        frame = frame.f_back


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
        session = existing_pipeline_session(self)
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
        generate = functools.partial(original, *given, **kwargs)
        return session.run(bound.arguments, generate, lambda changed: _called(original, changed))

    def reduce(self: Any, protocol: Any) -> Any:
        """What copies and pickles are made from: that of a pipeline that nothing is attached to."""
        plain: Any = object.__new__(cls)
        vars(plain).update({name: item for name, item in vars(self).items() if name != _SESSION})
        parts = plain.__reduce_ex__(protocol)
        if isinstance(parts, tuple) and parts[0] is copyreg.__newobj__:  # type: ignore[attr-defined]
            # Pickling refuses this function for a class that is not that of the pipeline.
            return (cls.__new__, *parts[1:])
        return parts

    def new(_: type, *args: Any, **kwargs: Any) -> Any:
        """A pipeline that is made by the class of this one, as `from_pipe` does, is a plain one."""
        return cls(*args, **kwargs)

    # Saving writes the class's name, and other pipelines are built by it.
    same = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    own = {"__call__": call, "__reduce_ex__": reduce, "__new__": new, _ORIGINAL: cls}
    return type(cls.__name__, (cls,), own | same)


def _called(original: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """A call of a function with all its arguments by name, as they are bound."""
    bound = inspect.signature(original).bind_partial()
    bound.arguments.update(arguments)
    return original(*bound.args, **bound.kwargs)


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
