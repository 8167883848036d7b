"""A denoiser that is prepared for its next call, and is as before once nobody waits for it."""

from __future__ import annotations

__all__ = ["Handler", "Preparation"]

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn

from ...intercept.patching import patched
from ..dispatch import denoiser_sessions, pipeline_run, route_denoiser

#: What is done in place of a call: it gets the denoiser's own forward function, and the arguments.
Handler: TypeAlias = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Preparation:
    """Hands this thread's calls of a denoiser to a handler, from now until it is closed.

    A call that fails closes it.

    Args:
        denoiser: The denoiser, compiled or not.
        handler: What is done in place of a call.

    Raises:
        RuntimeError: If guidance is attached to the denoiser itself.
    """

    def __init__(self, denoiser: nn.Module, handler: Handler) -> None:
        if denoiser in denoiser_sessions:
            raise RuntimeError(
                f"this {type(denoiser).__name__} has guidance of its own attached; expected either "
                "a guider or guidance attached to the denoiser, not both"
            )
        self._handler: Handler | None = handler
        self._patch = patched([denoiser], route_denoiser)
        self._patch.__enter__()
        previous = pipeline_run.get()
        stale = previous is not None and getattr(previous[1], "is_closed", False)
        self._previous = None if stale else previous
        self._current = ((denoiser,), self)
        pipeline_run.set(self._current)

    @property
    def is_closed(self) -> bool:
        """Whether calls go to the denoiser itself again."""
        return self._handler is None

    def __call__(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """One call of the denoiser."""
        if self._handler is None:
            # It was closed in another thread, which can't change this one's context.
            pipeline_run.set(None)
            return route_denoiser(module, forward, args, kwargs)
        try:
            return self._handler(forward, args, kwargs)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the denoiser as it was; doing it again does nothing."""
        if self._handler is None:
            return
        self._handler = None
        self._patch.__exit__(None, None, None)
        if pipeline_run.get() is self._current:
            pipeline_run.set(self._previous)
