"""Forward functions that somebody put in place of those that modules have by their class.

Offloading, casting and compiling replace them, too, and so do the patches of this package: what
they call in the end is a module's own function, so these are looked through.
"""

from __future__ import annotations

__all__ = ["replaced_forwards"]

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from .module_call import modules_of
from .patching import unpatched


def replaced_forwards(denoiser: nn.Module) -> dict[nn.Module, Callable[..., Any]]:
    """The modules of a denoiser that run another forward function, and the function.

    Args:
        denoiser: The denoiser, not compiled.
    """
    found: dict[nn.Module, Callable[..., Any]] = {}
    for module in modules_of(denoiser):
        if "_orig_mod" in module._modules:  # torch.compile's wrapper
            continue
        forward = _innermost(module)
        if forward is None:
            forward = _of_class(type(module))
        if forward is not None:
            found[module] = forward
    return found


def _innermost(module: nn.Module) -> Callable[..., Any] | None:
    """What a module's own attribute `forward` calls in the end; None if that is its class's."""
    own = vars(module)
    forward: Callable[..., Any] | None = own.get("forward")
    for _ in range(8):
        forward = unpatched(forward)
        kept_by = getattr(getattr(forward, "func", None), "__module__", "")
        if kept_by == "accelerate.hooks":
            forward = own.get("_old_forward")
        elif kept_by == "diffusers.hooks.hooks":
            first = own["_diffusers_hook"]._fn_refs[0]
            forward = first.original_forward or first.forward
        elif (eager := getattr(forward, "_torchdynamo_orig_callable", None)) is not None:
            forward = eager
        else:
            break
    function = getattr(forward, "__func__", None)
    if forward is None or any(
        vars(cls).get("forward") is function for cls in type(module).__mro__ if function
    ):
        return None
    return forward


@functools.lru_cache(maxsize=1024)
def _named(function: Callable[..., Any], cls: type) -> bool:
    """Whether a function has the name of a method of a class."""
    return function.__module__ == cls.__module__ and function.__qualname__.startswith(
        f"{cls.__qualname__}."
    )


def _of_class(cls: type) -> Callable[..., Any] | None:
    """The forward function of a class, if it was defined elsewhere and put there."""
    for owner in cls.__mro__:
        forward = vars(owner).get("forward")
        if forward is not None:
            own = owner is nn.Module or not hasattr(forward, "__qualname__")
            return None if own or _named(forward, owner) else forward
    return None
