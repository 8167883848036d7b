"""Blocks of a denoiser that are compiled one by one, and how perturbed passes run them.

`Module.compile` puts compiled code in front of a module's forward function: what is patched inside
of it stays unseen. So a perturbed pass runs a block in which something is edited by other compiled
code, made from a copy of its forward function: the edit itself stays outside of the graphs. Where
it has other rows than the clean pass it runs all blocks so. The code of the clean pass sees the
same calls as without guidance, and is never compiled again.
"""

from __future__ import annotations

__all__ = ["Regions"]

import types
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .module_call import ModuleCall
from .patching import Router, Routers, patched

#: The compiled copies of each denoiser, with the function and the backend that each was made from,
#: and whether it is for blocks in which something is edited. Those have copies of their own: what
#: is compiled for them would do for the others, too, in pieces.
_Copies: TypeAlias = list[tuple[Callable[..., Any], Any, bool, Callable[..., Any]]]
_COPIES: WeakKeyDictionary[nn.Module, _Copies] = WeakKeyDictionary()


class Regions:
    """The compiled blocks of a denoiser.

    Args:
        denoiser: The denoiser, not sealed.

    Attributes:
        modules: The compiled blocks; empty if there are none.
        overwrites: Whether what they give is overwritten when they run again (CUDA graphs).
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self._denoiser = denoiser
        self.modules = frozenset(
            module for module in denoiser.modules() if _compiled_call(module) is not None
        )
        settings = [getattr(_backend_of(module), "config", {}) for module in self.modules]
        self.overwrites = any(found.get("triton.cudagraphs") for found in settings)
        self._region_of: dict[nn.Module, nn.Module] = {}
        for region in self.modules:
            for module in region.modules():
                if module is not region:
                    self._region_of[module] = region

    def outermost(self, module: nn.Module) -> nn.Module:
        """What is patched for a module's sake: itself, or the region that it is inside of."""
        while module in self._region_of:
            module = self._region_of[module]
        return module

    def covers(self, module: nn.Module) -> bool:
        """Whether a module is a region, or inside of one."""
        return module in self.modules or module in self._region_of

    def router(
        self,
        modules: Iterable[nn.Module],
        routers: Routers,
        handle: Router,
        *,
        has_all_rows: bool,
    ) -> Router:
        """Who decides about the calls of a perturbed pass.

        Args:
            modules: The modules that the pass needs to see, in and outside of regions.
            routers: Who decides about their calls.
            handle: What the pass does with calls; it is asked from inside of regions, too.
            has_all_rows: Whether the pass has the rows of the clean one.
        """
        opened = self._inside(modules)

        def run(call: ModuleCall) -> Any:
            inside = opened.get(call.module)
            if inside is not None:
                with patched(inside, routers):
                    return self._own(call, opened=True)()
            if call.module in self.modules and not has_all_rows:
                call = self._own(call, opened=False)
            return handle(call)

        return run

    def _inside(self, modules: Iterable[nn.Module]) -> dict[nn.Module, set[nn.Module]]:
        """Those modules that are inside of regions, by region."""
        found: dict[nn.Module, set[nn.Module]] = {}
        for module in modules:
            region = self.outermost(module)
            if region is not module:
                found.setdefault(region, set()).add(module)
        return found

    def _own(self, call: ModuleCall, *, opened: bool) -> ModuleCall:
        """The same call of a region by compiled code apart from that of the clean pass."""
        return call.with_forward(self._copy_of(call.module, opened))

    def _copy_of(self, region: nn.Module, opened: bool) -> Callable[..., Any]:
        forward = type(region).forward
        hooked = region._forward_hooks or region._forward_pre_hooks or "forward" in vars(region)
        if hooked or not isinstance(forward, types.FunctionType):
            # Offloading, for instance. It runs uncompiled.
            return region._call_impl
        backend = _backend_of(region)
        copies = _COPIES.setdefault(self._denoiser, [])
        for function, other, is_opened, compiled in copies:
            # Backends are equal when they have the same settings, and have no hash.
            if function is forward and other == backend and is_opened == opened:
                return types.MethodType(compiled, region)
        compiled = torch.compile(
            _copied(forward), backend=backend, dynamic=getattr(backend, "dynamic", None)
        )
        copies.append((forward, backend, opened, compiled))
        return types.MethodType(compiled, region)


def _compiled_call(module: nn.Module) -> Callable[..., Any] | None:
    found: Callable[..., Any] | None = vars(module).get("_compiled_call_impl")
    return found


def _copied(function: types.FunctionType) -> types.FunctionType:
    """The same function with a code object of its own: the compiler keeps its results by these."""
    code = function.__code__.replace(co_name=function.__code__.co_name)
    copy = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _backend_of(region: nn.Module) -> Any:
    """The backend that a region was compiled with; the usual one if it can't be told."""
    compiled: Any = _compiled_call(region)
    compiled = getattr(compiled, "original", compiled)  # below a patch
    cells = getattr(compiled, "__closure__", None) or ()
    for link in _LINKS:
        for cell in cells:
            try:
                backend = getattr(cell.cell_contents, link, None)
            except ValueError:  # an empty cell
                continue
            if backend is None:
                continue
            while hasattr(backend, link):
                backend = getattr(backend, link)
            return backend
    return "inductor"


#: What leads from one of the compiler's callbacks to the next, down to the backend: its name, and
#: its older one.
_LINKS = ("_torchdynamo_orig_backend", "_torchdynamo_orig_callable")
