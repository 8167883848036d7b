"""Caches that other packages put into a denoiser by replacing forward functions, refused.

DeepCache, TeaCache, FasterCache and their kin keep what blocks computed, to give it back at later
steps. They can't tell a perturbed pass from a clean one, so each would get what the other computed.
A replaced function that keeps nothing (FreeU by hand, HyperTile, a counter) harms nobody. Which is
which is seen by looking: at what is in reach of such a function, and new since the run began.
"""

from __future__ import annotations

__all__ = ["OtherCaches"]

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from ..intercept.replaced import replaced_forwards

#: What marks a denoiser whose blocks ParaAttention or cache-dit exchange at every call.
_MARK = "_is_cached"
#: Tensors of fewer dimensions are times, scales and counts, not features.
_FEATURES = 3
_DEPTH = 6


class OtherCaches:
    """What the replaced forward functions of a denoiser keep, from the beginning of a run.

    Args:
        denoiser: The denoiser, not compiled.
        replaced: See `replaced_forwards`.
    """

    def __init__(
        self, denoiser: nn.Module, replaced: Mapping[nn.Module, Callable[..., Any]]
    ) -> None:
        self._denoiser, self._replaced = denoiser, replaced
        # With the tensors themselves, so that no later one gets the same id.
        self._before = {
            module: {id(tensor): tensor for tensor in _kept(module, forward)}
            for module, forward in self._replaced.items()
        }

    @classmethod
    def found_in(cls, denoiser: nn.Module) -> OtherCaches | None:
        """What may be caches of other packages; None if nothing in the denoiser looks like it."""
        replaced = replaced_forwards(denoiser)
        return cls(denoiser, replaced) if replaced or hasattr(denoiser, _MARK) else None

    def check(self) -> None:
        """Check that no replaced function keeps anything that was computed since.

        Raises:
            RuntimeError: If one does, or if the denoiser is marked as cached.
        """
        kind = type(self._denoiser).__name__
        expected = "expected FirstBlockCacheConfig of diffusers, or a denoiser with the cache off"
        if getattr(self._denoiser, _MARK, False):
            raise RuntimeError(
                f"this {kind} has a cache of another package ({_MARK}=True) that guidance can't "
                f"tell its own passes from; {expected}"
            )
        for module, forward in self._replaced.items():
            before = self._before[module]
            if all(id(tensor) in before for tensor in _kept(module, forward)):
                continue
            name = next(name for name, found in self._denoiser.named_modules() if found is module)
            function = getattr(forward, "__qualname__", type(forward).__name__)
            raise RuntimeError(
                f"{name or 'this denoiser'} ({kind}) runs {function} of "
                f"{getattr(forward, '__module__', None)} in place of its own forward function, "
                "which keeps what it computed for later calls: a cache, as it seems, that guidance "
                f"can't tell its own passes from; {expected}"
            )


def _kept(module: nn.Module, forward: Callable[..., Any]) -> Iterator[Tensor]:
    """The features in reach of a replaced forward function: its own, and plain attributes."""
    seen: set[int] = set()
    own = [value for name, value in vars(module).items() if not name.startswith("_")]
    for value in (forward, *own):
        if value is not module:
            yield from _features(value, seen, _DEPTH)


def _features(value: Any, seen: set[int], depth: int) -> Iterator[Tensor]:
    """Tensors with the dimensions of features that can be reached from a value."""
    if isinstance(value, Tensor):
        if value.ndim >= _FEATURES and not isinstance(value, nn.Parameter):
            yield value
        return
    if not depth or id(value) in seen:
        return
    seen.add(id(value))
    for item in _inside(value):
        yield from _features(item, seen, depth - 1)


def _inside(value: Any) -> Iterator[Any]:
    """What a container, a function or a plain object holds. Modules keep weights, not features."""
    if isinstance(value, (type, types.ModuleType, nn.Module)):
        return
    if isinstance(value, dict):
        yield from list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from list(value)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, types.FunctionType):
        yield from _inside_function(value)
    else:
        yield from list(getattr(value, "__dict__", {}).values())


def _inside_function(function: types.FunctionType) -> Iterator[Any]:
    """What a function holds or names, other functions apart from those in its closure left out."""
    yield from (function.__defaults__, function.__kwdefaults__)
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not filled yet
            yield cell.cell_contents
    for name in function.__code__.co_names:
        found = function.__globals__.get(name)
        if not callable(found):
            yield found
