"""Temporary replacement of a module's forward function, shared by all who need it.

A forward hook can't skip a module and is unsafe to add while another thread is running the module
(`torch` iterates over its hooks). Here each module is patched once, however many runs need it, and
the patch asks the context of the calling thread what to do: everybody else's calls go straight to
the original.
"""

from __future__ import annotations

__all__ = ["Router", "patched"]

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
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


class _Patch:
    """What stands in for a module's forward function while somebody needs it."""

    def __init__(self, module: nn.Module, router: Router, users: int = 0) -> None:
        # Module.compile() puts a compiled function in front of forward; a patch of forward below it
        # would be traced into the graph.
        compiled = vars(module).get("_compiled_call_impl")
        self.module = module
        self.router = router
        self.attribute = "forward" if compiled is None else "_compiled_call_impl"
        self.previous = vars(module).get(self.attribute, _MISSING)
        self.original = compiled if compiled is not None else module.forward
        self.users = users
        self.live = True
        vars(module)[self.attribute] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Whoever wrapped the patch (offloading does) may call it after its time, or below another.
        if not self.live:
            return self.original(*args, **kwargs)
        return self.router(self.module, self.original, args, kwargs)

    @property
    def in_place(self) -> bool:
        """Whether the module still calls the patch itself."""
        return vars(self.module).get(self.attribute) is self

    def __getstate__(self) -> dict[str, Any]:
        # A copy of a patched module is not patched.
        return vars(self) | {"live": False}


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


@functools.cache
def _keep_out_of_graphs() -> None:
    """Keep patches out of what is compiled later: traced, they would decide once for all."""
    # Not as a decorator: it would import the compiler with this module.
    call = torch.compiler.disable(_Patch.__call__)  # type: ignore[no-untyped-call]
    _Patch.__call__ = call  # type: ignore[method-assign]


def _install(module: nn.Module, router: Router) -> None:
    _keep_out_of_graphs()
    with _lock:
        patch = _patches.get(module)
        if patch is not None and patch.router is not router:
            raise RuntimeError(f"{type(module).__name__} is guided as a part of another denoiser")
        if patch is None or not patch.in_place:
            users = 0
            if patch is not None:
                patch.live, users = False, patch.users
            patch = _Patch(module, router, users)
            _patches[module] = patch
        patch.users += 1


def _remove(module: nn.Module) -> None:
    with _lock:
        patch = _patches[module]
        patch.users -= 1
        if patch.users:
            return
        del _patches[module]
        patch.live = False
        # Offloading may have replaced the function meanwhile; then the patch is gone already.
        if patch.in_place:
            if patch.previous is _MISSING:
                del vars(module)[patch.attribute]
            else:
                vars(module)[patch.attribute] = patch.previous
