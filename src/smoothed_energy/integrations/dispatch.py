"""The routes of calls of patched denoisers, each to the run or session that owns it."""

from __future__ import annotations

__all__ = ["DENOISER", "has_own_guidance", "route_elsewhere"]

from typing import Any

from torch import nn

from ..intercept.module_call import ModuleCall
from ..intercept.patching import Routers

#: Who decides about the calls of a denoiser: the pipeline that runs in this thread, or the session
#: of the denoiser itself, whose router is `DENOISER.own[denoiser]`.
DENOISER = Routers("smoothed_energy_denoiser")


def has_own_guidance(denoiser: nn.Module) -> bool:
    """Whether guidance is attached to the denoiser itself."""
    return denoiser in DENOISER.own


def route_elsewhere(call: ModuleCall) -> Any:
    """A call of a denoiser outside the runs of this thread: its own session's, or nobody's."""
    own = DENOISER.own.get(call.module)
    return call() if own is None else own(call)
