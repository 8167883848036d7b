"""The arguments of a pipeline's call, made from a configuration and the pictures to draw."""

from __future__ import annotations

__all__ = ["batch_arguments", "check_call", "settings_arguments"]

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from ..integrations.pipeline_facts import picture_size, refuse_own_guidance
from .configuration import PictureSettings
from .sampler import ConfigurationError


def settings_arguments(pipe: Any, settings: PictureSettings) -> dict[str, Any]:
    """The arguments that all pictures of a configuration have in common.

    Args:
        pipe: The pipeline.
        settings: The settings.

    Raises:
        ConfigurationError: If the pipeline lacks one that is needed.
    """
    accepted = inspect.signature(pipe.__call__).parameters
    if "num_frames" in accepted:
        raise ConfigurationError(f"{type(pipe).__name__} makes videos; expected one of pictures")
    arguments: dict[str, Any] = {"num_inference_steps": settings.num_inference_steps}
    if "prompt" in accepted:
        # Where guidance_scale is an input of the denoiser, CFG has another name.
        true_cfg = "true_cfg_scale" in accepted
        arguments["true_cfg_scale" if true_cfg else "guidance_scale"] = settings.cfg
        if settings.negative_prompt or true_cfg:
            arguments["negative_prompt"] = settings.negative_prompt
    elif settings.cfg > 1:
        raise ConfigurationError(
            f"cfg={settings.cfg:g}: {type(pipe).__name__} takes no prompt and has no "
            "classifier-free guidance; expected 1"
        )
    if settings.size is not None:
        arguments["height"], arguments["width"] = settings.size
    if settings.control is not None:
        arguments["image"] = _control_picture(pipe, settings)
        arguments["controlnet_conditioning_scale"] = settings.control_scale
    for name in arguments:
        if name not in accepted:
            raise ConfigurationError(f"{type(pipe).__name__} has no argument {name!r}")
    return arguments


def check_call(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse to guide a pipeline that guides by itself.

    Raises:
        ConfigurationError: If it does.
    """
    call = inspect.signature(pipe.__call__).bind_partial(**arguments)
    call.apply_defaults()
    try:
        refuse_own_guidance(pipe, call.arguments)
    except (TypeError, RuntimeError) as error:
        raise ConfigurationError(str(error)) from error


def batch_arguments(
    pipe: Any, common: Mapping[str, Any], pictures: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """The arguments of one call.

    Noise is drawn on the CPU and for each picture by itself.

    Args:
        pipe: The pipeline.
        common: What `settings_arguments` gave.
        pictures: The prompt and the seed of each picture.

    Raises:
        ConfigurationError: If there is a prompt, and the pipeline takes none.
    """
    call = dict(common)
    call["generator"] = [torch.Generator("cpu").manual_seed(seed) for _, seed in pictures]
    prompts = [prompt for prompt, _ in pictures]
    if "prompt" in inspect.signature(pipe.__call__).parameters:
        call["prompt"] = prompts
    elif any(prompts):
        raise ConfigurationError(f"{type(pipe).__name__} takes no prompt; got {prompts[0]!r}")
    else:
        call["batch_size"] = len(pictures)
    for name in ("negative_prompt", "image"):
        if name in call:
            call[name] = [call[name]] * len(pictures)
    return call


def _control_picture(pipe: Any, settings: PictureSettings) -> Image.Image:
    """The picture that a ControlNet follows, cut to the size of what is drawn."""
    size = picture_size(pipe) if settings.size is None else settings.size
    try:
        with Image.open(Path(str(settings.control)).expanduser()) as image:
            picture = ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise ConfigurationError(
            f"control={settings.control!r} is not a picture that can be read ({error})"
        ) from error
    return ImageOps.fit(picture, size[::-1], Image.Resampling.LANCZOS)
