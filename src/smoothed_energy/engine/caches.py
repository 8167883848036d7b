"""Caches of `diffusers` that skip parts of a denoiser, kept apart from guidance.

Caching hooks compare a call with the one before it, and may give back what was computed then. A
perturbed pass follows the clean one at the same step, so it would often get the clean pass's result
as its own: a correction of zero. Here each pass of guidance has states of its own.
"""

from __future__ import annotations

__all__ = ["CacheStates"]

import functools
import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..guidance.plan import Negative, NegativeContext, Plan

# Caches that decide by what they see. Others count calls, or keep one state for all of them.
_KNOWN = ("FBCHeadBlockHook", "FBCBlockHook")


class CacheStates:
    """What the caches of a denoiser remember, for each kind of pass.

    Args:
        denoiser: The denoiser, not compiled.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self._denoiser = denoiser
        self._config = _config(denoiser)
        self._hooks = {
            module: hooks for module in denoiser.modules() if (hooks := _caching_hooks(module))
        }
        hooks = [hook for found in self._hooks.values() for hook in found]
        self._names = dict.fromkeys(type(hook).__name__ for hook in hooks)
        managers = {id(hook.state_manager): hook.state_manager for hook in hooks if _is_known(hook)}
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

    def check(self) -> None:
        """Check that the caches are those that this object was made for.

        Raises:
            RuntimeError: If they were enabled or disabled since.
        """
        if _config(self._denoiser) is not self._config:
            raise RuntimeError(
                f"the cache of this {type(self._denoiser).__name__} was changed while guidance "
                "acted on it; detach the guidance, and attach it again"
            )

    def apart(self, plan: Plan) -> Plan:
        """The same plan, its passes with states of their own.

        Raises:
            RuntimeError: If there are caches with which the plan would come out wrong.
        """
        if not self._hooks:
            return plan
        unknown = [name for name in self._names if name not in _KNOWN]
        if unknown:
            raise RuntimeError(
                f"the denoiser has a cache ({', '.join(unknown)}) that guidance can't tell its own "
                "passes from; expected FirstBlockCacheConfig, or a denoiser after disable_cache()"
            )
        cached = [name for module, name in plan.modules.items() if module in self._hooks]
        if cached or plan.recorded:
            names = ", ".join([*cached, *plan.recorded.values()])
            raise RuntimeError(
                f"this guidance changes or looks at what a cache may skip ({names}); expected one "
                "that changes attention only, or a denoiser after disable_cache()"
            )
        negative = functools.partial(self._negative, plan.negative, object())
        # A replayed block would be one that the cache never saw.
        return replace(plan, replay=False, negative=negative)

    def _negative(self, negative: Negative, key: object, second: NegativeContext) -> Tensor:
        numbers = itertools.count()

        def predict(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            with self.of((key, next(numbers))):
                return second.predict(args, kwargs)

        return negative(replace(second, predict=predict))


def _config(denoiser: nn.Module) -> Any:
    return getattr(denoiser, "_cache_config", None)


def _caching_hooks(module: nn.Module) -> list[Any]:
    registry: Any = getattr(module, "_diffusers_hook", None)
    hooks = [] if registry is None else registry.hooks.values()
    return [hook for hook in hooks if hook._is_stateful or _is_known(hook)]


def _is_known(hook: Any) -> bool:
    return type(hook).__name__ in _KNOWN
