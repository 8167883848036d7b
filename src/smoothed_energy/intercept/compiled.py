"""Denoisers that `torch.compile` has compiled."""

from __future__ import annotations

__all__ = ["eagerly", "is_compiled", "is_sealed"]

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


def is_compiled(denoiser: nn.Module) -> bool:
    """Whether `torch.compile` or `Module.compile` was used on it or on anything inside it."""
    for module in denoiser.modules():
        if vars(module).get("_compiled_call_impl") is not None or "_orig_mod" in module._modules:
            return True
    return False


def is_sealed(denoiser: nn.Module) -> bool:
    """Whether it is compiled as a whole, or has parts that `torch.compile` wrapped.

    Parts that `Module.compile` compiled in place are `Regions`.
    """
    if vars(denoiser).get("_compiled_call_impl") is not None:
        return True
    return any("_orig_mod" in module._modules for module in denoiser.modules())


_lock = threading.Lock()
_stance = ExitStack()
_users = 0


@contextmanager
def eagerly() -> Iterator[None]:
    """A block in which nothing is compiled.

    The stance of the compiler belongs to the process, not to the thread. Where blocks of several
    threads overlap, the first one sets it and the last one restores it.
    """
    global _users
    with _lock:
        if not _users:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _stance.close()
