"""The calls of a pipeline that the settings of ``generate`` ask for."""

from __future__ import annotations

__all__ = ["call_arguments", "draw_batch"]

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .generate_settings import GenerateSettings

if TYPE_CHECKING:
    from PIL import Image


def call_arguments(pipeline: Any, settings: GenerateSettings) -> dict[str, Any]:
    """The arguments of every call of a pipeline, apart from seeds and what depends on them.

    Args:
        pipeline: The pipeline.
        settings: The settings of the run.

    Raises:
        ValueError: If the pipeline does not have an argument that is needed.
    """
    from ..integrations.picture_call import accepted_by, common_arguments

    accepted = accepted_by(pipeline)
    _check_options(f"{settings.model} is a {type(pipeline).__name__}", accepted, settings)
    try:
        return common_arguments(
            pipeline,
            num_inference_steps=settings.num_inference_steps,
            cfg=settings.cfg,
            negative_prompt=settings.negative_prompt,
            size=settings.size,
        )
    except ValueError as error:
        raise ValueError(f"{settings.model}: {error}") from None


def _check_options(what: str, accepted: frozenset[str], settings: GenerateSettings) -> None:
    """Refuse options that a pipeline has no argument for, by their own names.

    Raises:
        ValueError: If there are any.
    """
    if settings.size is not None and not {"height", "width"} <= accepted:
        raise ValueError(f"{what}, which has one size; leave --size out")
    if "prompt" in accepted:
        return
    if settings.prompt:
        raise ValueError(f"{what}, which takes no prompt; leave it out")
    if settings.negative_prompt:
        raise ValueError(
            f"--negative-prompt {settings.negative_prompt}: {what}, which takes no prompt; leave "
            "it out"
        )
    if settings.cfg > 1:
        raise ValueError(
            f"--cfg {settings.cfg:g}: {what}, which has no classifier-free guidance; expected 1 "
            "(off), the default"
        )


def draw_batch(
    pipeline: Any,
    arguments: dict[str, Any],
    prompt: str,
    seeds: Sequence[int],
    advance: Callable[[float], None],
) -> list[Image.Image]:
    """Draw a batch of images.

    Args:
        pipeline: The pipeline.
        arguments: What `call_arguments` says.
        prompt: What to draw.
        seeds: One for each image.
        advance: Is told how many more images are done; parts of an image count, too.
    """
    from ..integrations.picture_call import accepted_by, batch_arguments

    call = batch_arguments(pipeline, arguments, [(prompt, seed) for seed in seeds])
    done = 0.0
    if "callback_on_step_end" in accepted_by(pipeline):

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
