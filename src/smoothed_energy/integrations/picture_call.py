"""The arguments of a pipeline's call that draws pictures by their prompts and seeds."""

from __future__ import annotations

__all__ = ["accepted_by", "batch_arguments", "common_arguments", "refuse_guided_call"]

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .pipeline_facts import refuse_own_guidance


def accepted_by(pipe: Any) -> frozenset[str]:
    """The names of the arguments of a pipeline's call."""
    return frozenset(inspect.signature(pipe.__call__).parameters)


def common_arguments(
    pipe: Any,
    *,
    num_inference_steps: int,
    cfg: float,
    negative_prompt: str = "",
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """The arguments that pictures of the same settings have in common.

    Args:
        pipe: The pipeline.
        num_inference_steps: Denoising steps.
        cfg: The scale of classifier-free guidance; 1 is off.
        negative_prompt: What not to draw.
        size: Height and width in pixels; None is the model's own.

    Raises:
        ValueError: If the pipeline lacks one that is needed.
    """
    accepted, name = accepted_by(pipe), type(pipe).__name__
    if "num_frames" in accepted:
        raise ValueError(
            f"{name} makes videos; expected a pipeline of pictures, or guidance attached in Python"
        )
    arguments: dict[str, Any] = {"num_inference_steps": num_inference_steps}
    if "prompt" in accepted:
        # Where guidance_scale is an input of the denoiser, CFG has another name, and needs a
        # negative prompt, if only an empty one.
        true_cfg = "true_cfg_scale" in accepted
        arguments["true_cfg_scale" if true_cfg else "guidance_scale"] = cfg
        if negative_prompt or true_cfg:
            arguments["negative_prompt"] = negative_prompt
    elif cfg > 1:
        raise ValueError(
            f"cfg={cfg:g}: {name} takes no prompt and has no classifier-free guidance; expected 1"
        )
    if size is not None:
        arguments["height"], arguments["width"] = size
    for argument in arguments:
        if argument not in accepted:
            raise ValueError(
                f"{name} has no argument {argument!r}; expected a pipeline from text to images, or "
                "from nothing to images"
            )
    return arguments


def refuse_guided_call(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse to guide a pipeline that guides by itself.

    Raises:
        TypeError: If it does.
        RuntimeError: If it does.
    """
    call = inspect.signature(pipe.__call__).bind_partial(**arguments)
    call.apply_defaults()
    refuse_own_guidance(pipe, call.arguments)


def batch_arguments(
    pipe: Any, common: Mapping[str, Any], pictures: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """The arguments of one call.

    Noise is drawn on the CPU and for each picture by itself, so that a seed means the same picture
    on every device and in every batch.

    Args:
        pipe: The pipeline.
        common: What `common_arguments` gave, perhaps with the picture that a ControlNet follows.
        pictures: The prompt and the seed of each picture.

    Raises:
        ValueError: If there is a prompt, and the pipeline takes none.
    """
    call = dict(common)
    call["generator"] = [torch.Generator("cpu").manual_seed(seed) for _, seed in pictures]
    prompts = [prompt for prompt, _ in pictures]
    if "prompt" in accepted_by(pipe):
        call["prompt"] = prompts
    elif any(prompts):
        raise ValueError(f"{type(pipe).__name__} takes no prompt; got {prompts[0]!r}")
    else:
        call["batch_size"] = len(pictures)
    for name in ("negative_prompt", "image"):
        if name in call:
            call[name] = [call[name]] * len(pictures)
    return call
