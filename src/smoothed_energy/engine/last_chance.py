"""A denoiser that no family knows, whose layers are found by looking at its first call."""

from __future__ import annotations

__all__ = ["look_at_call"]

from ..families import LayerError, note_found
from ..families.looking import look
from ..intercept.module_call import ModuleCall
from ..settings.warning_place import warn_caller
from .passes import PassRunner
from .summary import GuidanceWarning


def look_at_call(runner: PassRunner, call: ModuleCall) -> None:
    """Find the layers of a denoiser by calls like one call, and say that it is guided by these.

    Args:
        runner: Runs the passes of the denoiser, and has its family from now on.
        call: The call.

    Raises:
        LayerError: If that can't be done.
    """
    kind = type(runner.model).__name__
    if runner.sealed or runner.regions is not None or runner.caches is not None:
        raise LayerError(
            f"a {kind} that is compiled, or has a cache, can't be looked at; expected it as it was "
            "made"
        )
    family = look(runner.model, call)
    note_found(runner.model, family)
    runner.family = family
    vars(runner).pop("layers", None)
    names = ", ".join([layer.name for layer in family.layers(runner.model)])
    left_out = "".join([f"; {name} {reason}" for name, reason in family.left_out.items()])
    warn_caller(
        f"no family knows a {kind}, and it is guided by what a few calls of it show: "
        f"self-attention of {names}{left_out}; docs/families.md tells how to make a family",
        GuidanceWarning,
    )
