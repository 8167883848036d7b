"""What a run of a pipeline gave: whether these are numbers."""

from __future__ import annotations

__all__ = ["check_result"]

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..engine.run import GuidedRun
from ..engine.summary import GuidanceWarning
from ..settings.warning_place import warn_caller


def check_result(pipeline: Any, run: GuidedRun, arguments: Mapping[str, Any], result: Any) -> None:
    """Check that a finished run computed numbers, and gave some.

    Finished pictures don't tell, since what is not a number is black in them: this is a warning.

    Args:
        pipeline: The pipeline.
        run: The run.
        arguments: The arguments of the pipeline's `__call__`.
        result: What it returned.

    Raises:
        NonFiniteError: If latents, predictions or the result are not finite.
    """
    black = False
    is_latent = arguments.get("output_type") == "latent"
    for item in _items(result):
        if isinstance(item, Tensor):
            run.progress.note("final latents" if is_latent else "pictures", item)
        elif callable(getattr(item, "getbbox", None)):  # a picture of PIL
            black |= item.getbbox() is None
    run.check(_cfg_scale(pipeline, arguments))
    # A safety checker blackens pictures, too.
    if black and not any(getattr(result, "nsfw_content_detected", None) or ()):
        warn_caller(
            "a picture of this run is wholly black, and its latents are finite: either scales are "
            "too high, or the VAE overflows in half precision by itself, and not by guidance; "
            "expected lower scales, or the VAE in float32",
            GuidanceWarning,
        )


def _items(result: Any) -> Iterator[Any]:
    """The first of what a pipeline returns: pictures, videos or latents, arrays as tensors."""
    if isinstance(result, Mapping):  # also the output classes of diffusers
        result = next(iter(result.values()), None)
    elif isinstance(result, tuple):
        result = result[0] if result else None
    for item in result if isinstance(result, (list, tuple)) else [result]:
        if isinstance(item, (list, tuple)):
            yield from item
        elif isinstance(item, Tensor):
            if item.is_floating_point() and item.numel():
                yield item
        elif type(item).__module__ == "numpy" and item.dtype.kind == "f" and item.size:
            yield torch.from_numpy(item)
        else:
            yield item


def _cfg_scale(pipeline: Any, arguments: Mapping[str, Any]) -> float | None:
    """The largest scale of the pipeline's own guidance, None without."""
    if not getattr(pipeline, "do_classifier_free_guidance", True):
        return None
    scales = []
    for name in ("guidance_scale", "true_cfg_scale", "image_guidance_scale"):
        value = getattr(pipeline, name, None)  # as callbacks left it
        if value is None:
            value = arguments.get(name)
        if isinstance(value, (int, float)):  # some pipelines keep a tensor, one number a frame
            scales.append(abs(float(value)))
    return max(scales, default=None)
