"""Classifier-free guidance in a classic pipeline that leaves it to a guider."""

from __future__ import annotations

__all__ = ["guider_layout"]

from typing import Any

from ..denoisers.cfg_batch import BatchLayout


def guider_layout(guider: Any) -> BatchLayout:
    """The layout of a step whose predictions a guider of `diffusers` combines.

    Args:
        guider: The guider, as it is at this step; None if the pipeline has none.

    Raises:
        RuntimeError: If it does anything but u + g (c - u).
    """
    if guider is None or guider.num_conditions == 1:
        return BatchLayout()
    name = type(guider).__name__
    if name != "ClassifierFreeGuidance":
        raise RuntimeError(
            f"the pipeline's {name} does more with the predictions than u + g (c - u), so guidance "
            "would come out wrong; expected a ClassifierFreeGuidance as its guider, or one that is "
            "disabled"
        )
    # The original formulation is c + g (c - u).
    scale = float(guider.guidance_scale) + bool(guider.use_original_formulation)
    return BatchLayout(separate=True, cfg_scale=scale)
