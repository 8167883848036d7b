"""Temporary replacement of a module's forward function, shared by all who need it.

A forward hook can't skip a module and is unsafe to add while another thread is running the module
(`torch` iterates over its hooks). Here each module is patched once, however many runs need it, and
the patch asks the context of the calling thread what to do: everybody else's calls go straight to
the original.
"""

from __future__ import annotations

__all__ = ["Router", "patched"]

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import nn


class Router(Protocol):
    """Decides what a call of a patched module does."""

    def __call__(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The module's output; `forward` is its unpatched forward function."""
        ...


@dataclass
class _Patch:
    router: Router
    attribute: str
    replacement: Callable[..., Any]
    previous: Any
    users: int = 0


_MISSING = object()
_lock = threading.RLock()
_patches: WeakKeyDictionary[nn.Module, _Patch] = WeakKeyDictionary()


@contextmanager
def patched(modules: Iterable[nn.Module], router: Router) -> Iterator[None]:
    """Send every call of `modules` inside the block through `router`.

    Args:
        modules: The modules.
        router: A module-level function; a module may have only one at a time.

    Raises:
        RuntimeError: If a module is patched with another router.
    """
    done: list[nn.Module] = []
    try:
        for module in modules:
            _install(module, router)
            done.append(module)
        yield
    finally:
        for module in reversed(done):
            _remove(module)


def _install(module: nn.Module, router: Router) -> None:
    with _lock:
        patch = _patches.get(module)
        if patch is None:
            patch = _patches[module] = _new_patch(module, router)
        elif patch.router is not router:
            raise RuntimeError(f"{type(module).__name__} is guided as a part of another denoiser")
        elif vars(module).get(patch.attribute) is not patch.replacement:
            users = patch.users
            patch = _patches[module] = _new_patch(module, router)
            patch.users = users
        patch.users += 1


def _new_patch(module: nn.Module, router: Router) -> _Patch:
    # Module.compile() puts a compiled function in front of forward; a patch of forward below it
    # would be traced into the graph.
    compiled = vars(module).get("_compiled_call_impl")
    attribute = "forward" if compiled is None else "_compiled_call_impl"
    previous = vars(module).get(attribute, _MISSING)
    original = compiled if compiled is not None else module.forward

    def replacement(*args: Any, **kwargs: Any) -> Any:
        return router(module, original, args, kwargs)

    vars(module)[attribute] = replacement
    return _Patch(router, attribute, replacement, previous)


def _remove(module: nn.Module) -> None:
    with _lock:
        patch = _patches[module]
        patch.users -= 1
        if patch.users:
            return
        del _patches[module]
        # Offloading may have replaced the function meanwhile; then the patch is gone already.
        if vars(module).get(patch.attribute) is patch.replacement:
            if patch.previous is _MISSING:
                del vars(module)[patch.attribute]
            else:
                vars(module)[patch.attribute] = patch.previous
