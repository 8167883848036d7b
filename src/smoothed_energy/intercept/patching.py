"""Temporary replacement of a module's forward function, shared by all who need it.

A forward hook can't skip a module and is unsafe to add while another thread is running the module
(`torch` iterates over its hooks). Here each module is patched once, however many runs need it, and
the patch asks the context of the calling thread what to do: everybody else's calls go straight to
the original.
"""

from __future__ import annotations

__all__ = ["Router", "Routers", "holding", "patched", "unpatched"]

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .module_call import ModuleCall

#: Decides what a call of a patched module does, and returns the module's output.
Router: TypeAlias = Callable[[ModuleCall], Any]

_T = TypeVar("_T")


class Routers:
    """Who decides about the calls of patched modules; they run as they are while nobody does.

    Args:
        name: A name for messages.

    Attributes:
        current: The router of the calling thread and task. It is asked first.
        own: Routers of modules, for calls from everywhere.
    """

    def __init__(self, name: str) -> None:
        self.current: ContextVar[Router | None] = ContextVar(name, default=None)
        self.own: WeakKeyDictionary[nn.Module, Router] = WeakKeyDictionary()


@contextmanager
def holding(variable: ContextVar[_T], value: _T) -> Iterator[None]:
    """Within the block `variable` is `value`, in this thread and task alone."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class _Patch:
    """What stands in for a module's forward function while somebody needs it."""

    def __init__(self, module: nn.Module, routers: Routers, users: int = 0) -> None:
        # Module.compile() puts a compiled function in front of forward; a patch of forward below it
        # would be traced into the graph.
        compiled = vars(module).get("_compiled_call_impl")
        self.module = module
        self.routers = routers
        self.attribute = "forward" if compiled is None else "_compiled_call_impl"
        self.previous = vars(module).get(self.attribute, _MISSING)
        self.original = compiled if compiled is not None else module.forward
        self.users = users
        self.live = True
        vars(module)[self.attribute] = self
        # Copies and pickles ask the module itself, and only then its class.
        vars(module)["__reduce_ex__"] = self._reduce_module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Offloading wraps the patch, and may call it after it was taken off, or below a newer one.
        router = None
        if self.live:
            router = self.routers.current.get()
            if router is None:
                router = self.routers.own.get(self.module)
        if router is None:
            return self.original(*args, **kwargs)
        return router(ModuleCall(self.module, self.original, args, kwargs))

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the function below: pipelines ask which arguments a denoiser takes."""
        return inspect.signature(self.original)

    def remove_from(self, attributes: dict[str, Any]) -> None:
        """Make a module's attributes what they were before."""
        if attributes.get("__reduce_ex__") == self._reduce_module:
            del attributes["__reduce_ex__"]
        # Offloading may have replaced the function; then the patch is gone already.
        if attributes.get(self.attribute) is not self:
            return
        if self.previous is _MISSING:
            del attributes[self.attribute]
        else:
            attributes[self.attribute] = self.previous

    def _reduce_module(self, protocol: Any) -> Any:
        """What copies and pickles of the module are made from: that of a module without patch."""
        cls = type(self.module)
        plain = cls.__new__(cls)
        vars(plain).update(vars(self.module))
        self.remove_from(vars(plain))
        return plain.__reduce_ex__(protocol)

    def __getstate__(self) -> dict[str, Any]:
        # Offloading that wraps a patch takes it into copies, where it does nothing.
        return vars(self) | {"live": False, "routers": None}


def unpatched(forward: Any) -> Any:
    """The function below all patches: the one that is given, if it is none."""
    while isinstance(forward, _Patch):
        forward = forward.original
    return forward


_MISSING = object()
_lock = threading.RLock()
_patches: WeakKeyDictionary[nn.Module, _Patch] = WeakKeyDictionary()


@contextmanager
def patched(modules: Iterable[nn.Module], routers: Routers) -> Iterator[None]:
    """Send every call of `modules` inside the block to whoever decides about it.

    Args:
        modules: The modules.
        routers: Who decides; a module may have only one of these at a time.

    Raises:
        RuntimeError: If a module is patched with other routers.
    """
    _keep_out_of_graphs()
    done: list[nn.Module] = []
    try:
        with _lock:
            for module in modules:
                patch = _patches.get(module)
                if patch is not None and patch.routers is not routers:
                    raise RuntimeError(
                        f"{type(module).__name__} is guided as a part of another denoiser"
                    )
                if patch is None or vars(module).get(patch.attribute) is not patch:
                    # Offloading that was enabled meanwhile has put its own function in place.
                    users = 0
                    if patch is not None:
                        patch.live, users = False, patch.users
                    _patches[module] = _Patch(module, routers, users)
                _patches[module].users += 1
                done.append(module)
        yield
    finally:
        with _lock:
            for module in reversed(done):
                installed = _patches[module]
                installed.users -= 1
                if installed.users:
                    continue
                del _patches[module]
                installed.live = False
                installed.remove_from(vars(module))


@functools.cache
def _keep_out_of_graphs() -> None:
    """Keep patches out of what is compiled later: traced, they would decide once for all."""
    # Not as a decorator: it would import the compiler with this module.
    call = torch.compiler.disable(_Patch.__call__)  # type: ignore[no-untyped-call]
    _Patch.__call__ = call  # type: ignore[method-assign]
