"""The arguments of a pipeline's call, made from a configuration."""

from __future__ import annotations

__all__ = ["check_call", "settings_arguments"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..integrations.picture_call import accepted_by, common_arguments, refuse_guided_call
from ..integrations.pipeline_facts import picture_size
from ..models.control_picture import fitted, read_control_picture
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
    try:
        arguments = common_arguments(
            pipe,
            num_inference_steps=settings.num_inference_steps,
            cfg=settings.cfg,
            negative_prompt=settings.negative_prompt,
            size=settings.size,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    if settings.control is None:
        return arguments
    arguments["image"] = _control_picture(pipe, settings)
    arguments["controlnet_conditioning_scale"] = settings.control_scale
    for name in arguments.keys() - accepted_by(pipe):
        raise ConfigurationError(f"{type(pipe).__name__} has no argument {name!r}")
    return arguments


def check_call(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse to guide a pipeline that guides by itself.

    Raises:
        ConfigurationError: If it does.
    """
    try:
        refuse_guided_call(pipe, arguments)
    except (TypeError, RuntimeError) as error:
        raise ConfigurationError(str(error)) from error


def _control_picture(pipe: Any, settings: PictureSettings) -> Image.Image:
    """The picture that a ControlNet follows, cut to the size of what is drawn."""
    size = picture_size(pipe) if settings.size is None else settings.size
    try:
        picture = read_control_picture(Path(str(settings.control)), on_white=False)
    except ValueError as error:
        raise ConfigurationError(
            f"control={settings.control!r} is not a picture that can be read ({error})"
        ) from error
    try:
        return fitted(picture, size)
    except ValueError as error:
        raise ConfigurationError(f"control={settings.control!r}: {error}") from error
