"""Classifier-free guidance by a guider of `diffusers` that a pipeline has inside."""

from __future__ import annotations

__all__ = ["check_guider", "guider_layout"]

from typing import Any

from ..denoisers.cfg_batch import BatchLayout


def check_guider(guider: Any) -> None:
    """Check that what a guider makes of predictions is known.

    Args:
        guider: The guider; None if the pipeline has none.

    Raises:
        RuntimeError: If it does anything but u + g (c - u), and is not disabled.
    """
    if guider is None or not getattr(guider, "_enabled", True):
        return
    name = type(guider).__name__
    if name != "ClassifierFreeGuidance":
        raise RuntimeError(
            f"the pipeline's {name} does more with the predictions than u + g (c - u), so guidance "
            "would come out wrong; expected a ClassifierFreeGuidance as its guider, or one that is "
            "disabled"
        )


def guider_layout(guider: Any) -> BatchLayout:
    """The layout of a step whose predictions a guider combines: two calls, the prompt's first.

    Args:
        guider: The guider, as it is at this step; None if the pipeline has none.

    Raises:
        RuntimeError: If it does anything but u + g (c - u).
    """
    check_guider(guider)
    if guider is None or guider.num_conditions == 1:  # outside of its steps, too
        return BatchLayout()
    # The original formulation is c + g (c - u).
    scale = float(guider.guidance_scale) + bool(guider.use_original_formulation)
    rescaled = float(guider.guidance_rescale or 0.0) > 0.0
    return BatchLayout(separate=True, cfg_scale=scale, normalises=rescaled)
