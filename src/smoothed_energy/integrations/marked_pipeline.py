"""Pipelines whose calls are runs of a session.

A pipeline that something is attached to becomes, until it is detached, an instance of a subclass of
its own class, of the same name, that differs in `__call__` alone: it hands a run to its session.
What is made of such a pipeline (copies, pickles, other pipelines) has the pipeline's own class.
"""

from __future__ import annotations

__all__ = ["RunOwner", "mark_runs", "refuse_in_mid_run", "session_of", "unmark_runs"]

import copyreg
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from ..intercept.patching import holding
from .dispatch import DENOISER

# The older one is in the signature of few pipelines, and a keyword argument of many.
_CALLBACKS = ("callback_on_step_end", "callback")
_SESSION = "_smoothed_energy_session"
_ORIGINAL = "_smoothed_energy_original"


class RunOwner(ABC):
    """A session that the runs of a pipeline belong to.

    Attributes:
        pipeline: The pipeline.
    """

    pipeline: Any

    @abstractmethod
    def run(self, arguments: Mapping[str, Any], generate: Callable[[], Any]) -> Any:
        """One call of the pipeline.

        Args:
            arguments: The arguments of the call, defaults included.
            generate: Makes the call, and gives what the pipeline returns.
        """


def session_of(pipeline: Any) -> RunOwner | None:
    """The session that a pipeline's runs belong to; None if nothing is attached to it."""
    session = vars(pipeline).get(_SESSION)
    # Whoever copies the attributes of a pipeline copies this one, but it is not the copy's.
    if isinstance(session, RunOwner) and session.pipeline is pipeline:
        return session
    return None


def mark_runs(pipeline: Any, session: RunOwner) -> None:
    """Make the calls of a pipeline runs of a session, until `unmark_runs`."""
    vars(pipeline)[_SESSION] = session
    cls = _unmarked(type(pipeline))
    object.__setattr__(pipeline, "__class__", _marking_runs(cls, cls.__call__))


def unmark_runs(pipeline: Any) -> None:
    """Make a pipeline what it was before `mark_runs`."""
    object.__setattr__(pipeline, "__class__", _unmarked(type(pipeline)))
    del vars(pipeline)[_SESSION]


def refuse_in_mid_run(pipeline: Any) -> None:
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
        session = session_of(self)
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
        return session.run(bound.arguments, functools.partial(original, *given, **kwargs))

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
