"""Whose a call of a patched denoiser is: a run's in this thread, a session's, or nobody's."""

from __future__ import annotations

__all__ = ["denoiser_sessions", "pipeline_run", "route_denoiser"]

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from ..intercept.patching import Router

if TYPE_CHECKING:
    from .own_loop import DenoiserSession

# The run or session that a call of a patched denoiser belongs to: that of the pipeline that is
# running in this thread, or that of the denoiser itself.
pipeline_run: ContextVar[tuple[tuple[nn.Module, ...], Router] | None] = ContextVar(
    "smoothed_energy_pipeline_run", default=None
)
denoiser_sessions: WeakKeyDictionary[nn.Module, DenoiserSession] = WeakKeyDictionary()


def route_denoiser(
    module: nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """One call of a patched denoiser, by whomever it belongs to; see `patching.Router`."""
    current = pipeline_run.get()
    if current is not None and module in current[0]:
        return current[1](module, forward, args, kwargs)
    session = denoiser_sessions.get(module)
    if session is not None:
        return session.call(forward, args, kwargs)
    return forward(*args, **kwargs)
