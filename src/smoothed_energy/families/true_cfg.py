"""Classifier-free guidance in two calls: with the prompt first, then without it."""

from __future__ import annotations

__all__ = ["in_two_calls", "true_cfg", "two_calls"]

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting


def true_cfg(setting: Setting, *embeddings: str) -> BatchLayout:
    """The layout of a pipeline whose `true_cfg_scale` is CFG's.

    Its `guidance_scale` is an input of a distilled denoiser, and no CFG. There is CFG if the scale
    is above 1 and there is a negative prompt.

    Args:
        setting: The settings of the running pipeline.
        embeddings: The arguments that, all together, stand for a negative prompt.
    """
    scale = float(setting("true_cfg_scale", 1.0))
    negative = setting("negative_prompt", None) is not None or all(
        setting(name, None) is not None for name in embeddings
    )
    if scale <= 1.0 or not negative:
        return BatchLayout()
    return BatchLayout(separate=True, cfg_scale=scale)


def two_calls(setting: Setting) -> BatchLayout:
    """The layout of a pipeline whose `guidance_scale` is CFG's.

    There is CFG if the scale is above 1, unless the pipeline says otherwise.

    Args:
        setting: The settings of the running pipeline.
    """
    # The pipelines multiply by the argument of the call, whatever a callback changed.
    scale = float(setting("arguments", {})["guidance_scale"])
    if not setting("do_classifier_free_guidance", scale > 1.0):
        return BatchLayout()
    return BatchLayout(separate=True, cfg_scale=scale)


def in_two_calls(layout: BatchLayout) -> BatchLayout:
    """The same CFG, where a pipeline makes two calls in place of one batch."""
    if layout.groups == 1:
        return layout
    return BatchLayout(separate=True, cfg_scale=layout.cfg_scale)
