"""Classifier-free guidance by a guider of `diffusers` that a pipeline has inside."""

from __future__ import annotations

__all__ = ["check_guider", "guider_cfg"]

from typing import Any

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting


def check_guider(guider: Any) -> None:
    """Check that what a guider makes of predictions is known.

    Raises:
        RuntimeError: If it is another than that of classifier-free guidance.
    """
    if type(guider).__name__ != "ClassifierFreeGuidance":
        raise RuntimeError(
            f"what {type(guider).__name__}, the guider of this pipeline, makes of predictions is "
            "not known here, so guidance could come out wrong; expected a ClassifierFreeGuidance, "
            "beside which guidance of this package acts"
        )


def guider_cfg(setting: Setting) -> BatchLayout:
    """The layout of a pipeline whose `guider` makes two calls, first the one with the prompt.

    Args:
        setting: The settings of the running pipeline, whose guider is told the step.

    Raises:
        RuntimeError: If its guider is another than that of classifier-free guidance.
    """
    guider: Any = setting("guider", None)
    check_guider(guider)
    if guider.num_conditions == 1:  # outside of its steps, too
        return BatchLayout()
    scale = float(guider.guidance_scale)
    # c + s (c - u) is u + g (c - u) with g = 1 + s.
    return BatchLayout(
        separate=True, cfg_scale=1 + scale if guider.use_original_formulation else scale
    )
