"""The arguments of a pipeline's call, made from the settings of ``generate``."""

from __future__ import annotations

__all__ = ["call_arguments", "draw_batch"]

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .generate_settings import GenerateSettings

if TYPE_CHECKING:
    from PIL import Image


def call_arguments(
    name: str, accepted: frozenset[str], settings: GenerateSettings
) -> dict[str, Any]:
    """The arguments of every call of a pipeline, apart from seeds and what depends on them.

    Args:
        name: The name of the pipeline's class.
        accepted: The names of its arguments.
        settings: The settings of the run.

    Raises:
        ValueError: If the pipeline does not have an argument that is needed.
    """
    if "num_frames" in accepted:
        raise ValueError(
            f"{settings.model} is a {name}, which makes videos; this command draws pictures, so "
            "attach the guidance in Python"
        )
    arguments: dict[str, Any] = {
        "num_inference_steps": settings.num_inference_steps,
        **_prompt_arguments(name, accepted, settings),
    }
    if settings.size is not None:
        if not {"height", "width"} <= accepted:
            raise ValueError(f"{settings.model} is a {name}, which has one size; leave --size out")
        arguments["height"], arguments["width"] = settings.size
    for argument in arguments:
        if argument not in accepted:
            raise ValueError(
                f"{settings.model} is a {name}, which has no {argument}; "
                "expected a pipeline from text to images, or from nothing to images"
            )
    return arguments


def _prompt_arguments(
    name: str, accepted: frozenset[str], settings: GenerateSettings
) -> dict[str, Any]:
    if "prompt" in accepted:
        arguments: dict[str, Any] = {"prompt": settings.prompt}
        if settings.negative_prompt:
            arguments["negative_prompt"] = settings.negative_prompt
        if "true_cfg_scale" in accepted:
            # Their guidance_scale is an input of the denoiser; CFG needs a negative prompt, if only
            # an empty one.
            arguments["true_cfg_scale"] = settings.cfg
            arguments["negative_prompt"] = settings.negative_prompt
        else:
            arguments["guidance_scale"] = settings.cfg
        return arguments
    if settings.prompt:
        raise ValueError(f"{settings.model} is a {name}, which takes no prompt; leave it out")
    if settings.negative_prompt:
        raise ValueError(
            f"--negative-prompt {settings.negative_prompt}: {settings.model} is a {name}, which "
            "takes no prompt; leave it out"
        )
    if settings.cfg > 1:
        raise ValueError(
            f"--cfg {settings.cfg:g}: {settings.model} is a {name}, which has no classifier-free "
            "guidance; expected 1 (off), the default"
        )
    return {}


def draw_batch(
    pipeline: Any,
    accepted: frozenset[str],
    arguments: dict[str, Any],
    seeds: Sequence[int],
    advance: Callable[[float], None],
) -> list[Image.Image]:
    """Draw a batch of images.

    Args:
        pipeline: The pipeline.
        accepted: The names of its arguments.
        arguments: What `call_arguments` says.
        seeds: One for each image.
        advance: Is told how many more images are done; parts of an image count, too.
    """
    import torch

    # Noise is drawn on the CPU and for each image by itself, so that a seed means the same picture
    # on every device and in every batch.
    call: dict[str, Any] = dict(arguments)
    call["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    for text in ("prompt", "negative_prompt"):
        if text in call:
            call[text] = [call[text]] * len(seeds)
    if "prompt" not in call:
        call["batch_size"] = len(seeds)

    done = 0.0
    if "callback_on_step_end" in accepted:

        def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
            nonlocal done
            now = len(seeds) * (step + 1) / max(pipe.num_timesteps, step + 1)
            advance(now - done)
            done = now
            return tensors

        call["callback_on_step_end"] = on_step_end
    drawn: list[Image.Image] = pipeline(**call).images
    advance(len(seeds) - done)
    return drawn
