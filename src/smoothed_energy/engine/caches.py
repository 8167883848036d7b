"""Caches of `diffusers` that skip parts of a denoiser, kept apart from guidance.

Caching hooks compare a call with the one before it, and may give back what was computed then. A
perturbed pass follows the clean one at the same step, so it would often get the clean pass's result
as its own: a correction of zero. Here each pass of guidance has states of its own.
"""

from __future__ import annotations

__all__ = ["CacheStates"]

from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..guidance.plan import Plan

# Caches that decide by what they see. Others count calls, or keep one state for all of them.
_KNOWN = ("FBCHeadBlockHook", "FBCBlockHook")


class CacheStates:
    """What the caches of a denoiser remember, for each kind of pass.

    Args:
        denoiser: The denoiser, not compiled.

    Attributes:
        exist: Whether there are caches.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self._cached: set[nn.Module] = set()
        hooks: list[Any] = []
        for module in denoiser.modules():
            registry: Any = getattr(module, "_diffusers_hook", None)
            for hook in () if registry is None else registry.hooks.values():
                if hook._is_stateful or type(hook).__name__ in _KNOWN:
                    hooks.append(hook)
                    self._cached.add(module)
        self.exist = bool(hooks)
        self._names = list(dict.fromkeys([type(hook).__name__ for hook in hooks]))
        known = [hook for hook in hooks if type(hook).__name__ in _KNOWN]
        managers = {id(hook.state_manager): hook.state_manager for hook in known}
        self._managers = tuple(managers.values())
        self._states: defaultdict[Hashable, list[dict[str, Any]]] = defaultdict(
            lambda: [{} for _ in self._managers]
        )

    @contextmanager
    def of(self, key: Hashable) -> Iterator[None]:
        """A block in which the caches remember only what they saw in blocks of the same key."""
        before = [manager._state_cache for manager in self._managers]
        for manager, states in zip(self._managers, self._states[key], strict=True):
            manager._state_cache = states
        try:
            yield
        finally:
            for manager, states in zip(self._managers, before, strict=True):
                manager._state_cache = states

    def forget(self) -> None:
        """Forget everything that was seen in `of`."""
        self._states.clear()

    def check_known(self) -> None:
        """Check that calls with other rows, or with edits, can be kept apart.

        Raises:
            RuntimeError: If there are caches with which they can't.
        """
        unknown = [name for name in self._names if name not in _KNOWN]
        if unknown:
            raise RuntimeError(
                f"the denoiser has a cache ({', '.join(unknown)}) that guidance can't tell its own "
                "passes from; expected FirstBlockCacheConfig, or a denoiser after disable_cache()"
            )

    def check_plan(self, plan: Plan) -> None:
        """Check that a plan comes out right beside the caches, with states of its own.

        Raises:
            RuntimeError: If there are caches with which it would not.
        """
        self.check_known()
        cached = [name for module, name in plan.edits.items() if module in self._cached]
        if cached or plan.probed:
            names = ", ".join([*cached, *plan.probed.values()])
            raise RuntimeError(
                f"this guidance changes or looks at what a cache may skip ({names}); expected one "
                "that changes attention only, or a denoiser after disable_cache()"
            )
