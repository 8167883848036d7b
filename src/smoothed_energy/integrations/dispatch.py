"""Routes a call of a patched denoiser to the run or session that owns it."""

from __future__ import annotations

__all__ = ["DENOISER", "has_own_guidance", "route_to_run"]

from collections.abc import Collection
from typing import Any

from torch import nn

from ..intercept.module_call import ModuleCall
from ..intercept.patching import Router, Routers

#: Who decides about the calls of a denoiser: the pipeline that runs in this thread, or the session
#: of the denoiser itself, whose router is `DENOISER.own[denoiser]`.
DENOISER = Routers("smoothed_energy_denoiser")


def has_own_guidance(denoiser: nn.Module) -> bool:
    """Whether guidance is attached to the denoiser itself."""
    return denoiser in DENOISER.own


def route_to_run(denoisers: Collection[nn.Module], router: Router) -> Router:
    """A router for a thread in which a run calls some denoisers.

    Args:
        denoisers: The denoisers of the run. Calls of others belong to their own sessions, if they
            have any.
        router: Decides about the calls of the run.
    """

    def route(call: ModuleCall) -> Any:
        if call.module in denoisers:
            return router(call)
        own = DENOISER.own.get(call.module)
        return call() if own is None else own(call)

    return route
