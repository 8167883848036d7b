"""Prompts of guidances, encoded by the pipeline that they are attached to.

How a pipeline makes of a prompt what its denoiser is given is its own: encoders, templates, masks,
lengths. So it is called with the other prompt in the place of its own, as far as its first call of
the denoiser, which is not made.
"""

from __future__ import annotations

__all__ = ["encode_prompts", "refuse_prompt", "refuse_to_encode"]

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.participant import Participant
from ..families import Arguments, family_of
from ..guidance.guidance import Guidance
from ..intercept.module_call import ModuleCall
from ..intercept.patching import holding, patched
from .dispatch import DENOISER
from .pipeline_facts import batch_layout, step_position

# What a pipeline's call is told of prompts, as text or encoded.
_OF_PROMPT = re.compile(r"(negative_)?(pooled_)?prompt(_\d)?(_embeds?\w*|_(attention_)?mask\w*)?")
_CALLBACKS = ("callback", "callback_on_step_end")


def refuse_prompt(guidance: Guidance, pipeline: Any = None) -> None:
    """Refuse a guidance with a prompt of its own where nothing can encode it.

    Args:
        guidance: The guidance.
        pipeline: The pipeline that it is to be attached to; None: there is none.

    Raises:
        RuntimeError: If there is no pipeline, or one without a prompt or its encoders.
    """
    if guidance.prompt_to_encode is None:
        return
    if pipeline is None:
        why = "a bare denoiser has no text encoders"
    elif "ModularPipeline" in [cls.__name__ for cls in type(pipeline).__mro__]:
        why = f"the blocks of a {type(pipeline).__name__} can't be called with another prompt"
    elif "prompt" not in inspect.signature(type(pipeline).__call__).parameters:
        why = f"a {type(pipeline).__name__} takes no prompt"
    elif not _encodes(pipeline):
        why = f"this {type(pipeline).__name__} has no text encoders"
    else:
        return
    refuse_to_encode(guidance, why)


def refuse_to_encode(guidance: Guidance, why: str) -> None:
    """Refuse a guidance with a prompt of its own where nothing can encode it, for a known reason.

    Raises:
        RuntimeError: If it has one.
    """
    prompt = guidance.prompt_to_encode
    if prompt is not None:
        raise RuntimeError(
            f"the negative prompt {prompt!r} of {guidance.method} has to be encoded, and {why}; "
            "expected negative_embeds=, what the denoiser is given for it (docs/methods.md)"
        )


def _encodes(pipeline: Any) -> bool:
    names = [name for name in getattr(pipeline, "components", {}) if "text_encoder" in name]
    return not names or any(getattr(pipeline, name, None) is not None for name in names)


def encode_prompts(
    pipeline: Any,
    denoisers: Sequence[nn.Module],
    participants: Sequence[Participant],
    arguments: Mapping[str, Any],
    again: Callable[[Mapping[str, Any]], Any],
) -> None:
    """Encode the prompts that guidances have, before a run of a pipeline.

    Args:
        pipeline: The pipeline.
        denoisers: Its denoisers.
        participants: The guidances.
        arguments: The arguments of its call.
        again: Calls it with other arguments.

    Raises:
        RuntimeError: If it does not call its denoiser.
    """
    for participant in participants:
        prompt = participant.guidance.prompt_to_encode
        if prompt is not None:
            changed = _changed(pipeline, arguments, prompt)
            participant.text = _encoded(pipeline, denoisers, changed, again)


def _changed(pipeline: Any, arguments: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """The arguments of the same call for another prompt, which draws other random numbers."""
    defaults = inspect.signature(type(pipeline).__call__).parameters
    changed = dict(arguments)
    for name in arguments:
        if name in _CALLBACKS:
            changed[name] = None
        elif _OF_PROMPT.fullmatch(name):
            default = defaults[name].default
            changed[name] = None if default is inspect.Parameter.empty else default
        elif name == "generator":
            changed[name] = _another(arguments[name])
    changed["prompt"] = _as_many(prompt, arguments)
    return changed


def _as_many(prompt: str, arguments: Mapping[str, Any]) -> str | list[str]:
    """The prompt once for each of a call."""
    given = arguments.get("prompt")
    if isinstance(given, str):
        return prompt
    if given is None:
        given = [
            value
            for name, value in arguments.items()
            if name.startswith("prompt_embeds") and value is not None
        ][:1]
        given = given[0] if given else [None]
    return [prompt] * len(given)


def _another(generator: Any) -> Any:
    """Generators that nobody else draws from."""
    if isinstance(generator, list):
        return [_another(one) for one in generator]
    return None if generator is None else torch.Generator(generator.device).manual_seed(0)


class _EncodedError(BaseException):
    """What the denoiser would be given; a pipeline must not catch it."""

    def __init__(self, text: dict[str, Any]) -> None:
        super().__init__("the prompt is encoded, which is to be caught")
        self.text = text


def _encoded(
    pipeline: Any,
    denoisers: Sequence[nn.Module],
    arguments: Mapping[str, Any],
    again: Callable[[Mapping[str, Any]], Any],
) -> dict[str, Any]:
    """What a pipeline gives its denoiser for a prompt: the arguments that follow from it."""

    def route(call: ModuleCall) -> Any:
        if call.module not in denoisers:
            return call()
        family = family_of(call.module)

        def position() -> Any:
            timestep = call.argument(family.time)
            return step_position(pipeline, call.module, timestep, family)

        layout = batch_layout(pipeline, call.module, arguments, position, family)
        rows = layout.rows("conditional", len(family.latents(Arguments(call.argument))))
        named = call.named()
        given = {name: named[name] for name in family.text_arguments if named.get(name) is not None}
        raise _EncodedError({name: _kept(v) for name, v in family.take_rows(given, rows).items()})

    with patched(denoisers, DENOISER), holding(DENOISER.current, route), _quietly(pipeline):
        try:
            again(arguments)
        except _EncodedError as found:
            return found.text
    raise RuntimeError(
        f"this {type(pipeline).__name__} did not call its denoiser, so what it makes of a negative "
        "prompt is not known; expected negative_embeds="
    )


def _kept(value: Any) -> Any:
    """A copy of its own: what it is a part of may be large."""
    return value.clone() if isinstance(value, Tensor) else value


@contextmanager
def _quietly(pipeline: Any) -> Iterator[None]:
    """A block in which a pipeline shows no progress, and draws no random numbers that count."""
    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    before = vars(pipeline).get("_progress_bar_config")
    pipeline._progress_bar_config = {**(before or {}), "disable": True}
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        if before is None:
            del pipeline._progress_bar_config
        else:
            pipeline._progress_bar_config = before
