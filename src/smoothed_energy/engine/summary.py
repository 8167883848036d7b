"""Warnings of guidance that does nothing."""

from __future__ import annotations

__all__ = ["GuidanceWarning", "warn_if_idle", "warn_if_it_changes_nothing"]

import warnings
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ..guidance.attachable import Attachable
    from ..guidance.guidance import Guidance
    from .step import RunSummary

# Frames from a warning to whose code it is about: at the end of a run, and where it is attached.
_FROM_RUN, _FROM_ATTACH = 6, 5


class GuidanceWarning(UserWarning):
    """A run that was to be guided was not, or not as it may have been meant."""


def warn_if_it_changes_nothing(guidance: Attachable) -> None:
    """Warn of a perturbation that is none, a blur of one token for instance, unless it is off."""
    perturbation = getattr(guidance, "perturbation", None)
    if perturbation is None or not perturbation.is_identity:
        return
    if cast("Guidance", guidance).scale != 0:
        _warn(
            f"{guidance!r} changes nothing, since its perturbation is none; expected other "
            "settings, or scale=0 to turn it off",
            _FROM_ATTACH,
        )


def warn_if_idle(guidance: Attachable, done: RunSummary | None) -> None:
    """Warn of a run in which a guidance that is not off did nothing.

    Args:
        guidance: The guidance.
        done: What it did; None if there was no run.
    """
    if guidance.is_off or done is None or not done.calls:
        return
    if guidance.limits_cfg:
        if done.guided_calls < done.calls and not done.calls_without_cfg:
            _warn(
                f"there was no classifier-free guidance for {guidance!r} to limit; expected a "
                "prompt, and CFG's scale above 1",
                _FROM_RUN,
            )
        return
    guidance = cast("Guidance", guidance)
    if not done.guided_calls:
        where = f"steps={str(guidance.steps)!r}"
        if not isinstance(guidance.scale, float):
            where += f" with a scale other than 0 (scale={str(guidance.scale)!r})"
        _warn(
            f"none of the {done.calls} denoising steps of this run was in {where}, so the result "
            "is unguided",
            _FROM_RUN,
        )
    elif not done.layers and hasattr(guidance, "layers"):
        _warn(
            f"no layer of layers={guidance.layers!r} was reached in {done.guided_calls} guided "
            "steps, so the result is unguided",
            _FROM_RUN,
        )


def _warn(message: str, depth: int) -> None:
    warnings.warn(message, GuidanceWarning, stacklevel=depth)
