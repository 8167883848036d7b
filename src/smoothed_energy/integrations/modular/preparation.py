"""The patch of a guider's denoiser, from when it is prepared until its call is over."""

from __future__ import annotations

__all__ = ["Preparation"]

import weakref
from typing import Any

from torch import nn

from ...intercept.module_call import ModuleCall
from ...intercept.patching import Router, patched
from ..dispatch import DENOISER, has_own_guidance, route_elsewhere


class Preparation:
    """Hands this thread's calls of a denoiser to a handler, from now until it is closed.

    A call that fails closes it.

    Args:
        denoiser: The denoiser, compiled or not.
        handler: What is done in place of a call.

    Raises:
        RuntimeError: If guidance is attached to the denoiser itself.
    """

    def __init__(self, denoiser: nn.Module, handler: Router) -> None:
        if has_own_guidance(denoiser):
            raise RuntimeError(
                f"this {type(denoiser).__name__} has guidance of its own attached; expected either "
                "a guider or guidance attached to the denoiser, not both"
            )
        self._handler: Router | None = handler
        self._patch = patched([denoiser], DENOISER)
        self._patch.__enter__()
        previous = DENOISER.current.get()
        stale = isinstance(previous, Preparation) and previous.is_closed
        self._previous = None if stale else previous
        self._denoiser = denoiser
        DENOISER.current.set(self)

    @property
    def is_closed(self) -> bool:
        """Whether calls go to the denoiser itself again."""
        return self._handler is None

    def __call__(self, call: ModuleCall) -> Any:
        """One call of a denoiser in this thread."""
        if self._handler is None:
            # It was closed in another thread, which can't change this one's context.
            DENOISER.current.set(None)
            return route_elsewhere(call)
        if call.module is not self._denoiser:
            return route_elsewhere(call)
        try:
            return self._handler(call)
        except BaseException:
            self.close()
            raise

    def close_with(self, owner: object | None) -> None:
        """Close it when `owner` is gone, if not before.

        A block that fails before it calls the denoiser leaves its batches, and they go with it.
        """
        if owner is not None:
            weakref.finalize(owner, self.close).atexit = False

    def close(self) -> None:
        """Leave the denoiser as it was; doing it again does nothing."""
        if self._handler is None:
            return
        self._handler = None
        self._patch.__exit__(None, None, None)
        if DENOISER.current.get() is self:
            DENOISER.current.set(self._previous)
