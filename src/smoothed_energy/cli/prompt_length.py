"""Prompts that are longer than a text encoder reads."""

from __future__ import annotations

__all__ = ["what_is_cut"]

import inspect
from collections.abc import Iterator
from typing import Any

_ENDLESS = 10**6  # tokenizers without a limit tell a huge one


def what_is_cut(pipeline: Any, prompt: str, negative_prompt: str) -> Iterator[str]:
    """What each text encoder of a pipeline leaves out of the prompts, one message for each.

    Args:
        pipeline: The pipeline, whose tokenizers are called ``tokenizer``, ``tokenizer_2``, ...
        prompt: What to draw.
        negative_prompt: What not to draw.
    """
    told = set()
    for name, text in (("the prompt", prompt), ("--negative-prompt", negative_prompt)):
        for tokenizer, encoder in _encoders(pipeline) if text else ():
            limit = _limit(pipeline, tokenizer)
            cut = "" if limit is None else _cut(tokenizer, text, limit)
            message = (
                f"{name} is too long: the text encoder ({encoder}) reads {limit} tokens, and "
                f"not {_shortened(cut)!r}"
            )
            if cut and message not in told:
                told.add(message)
                yield message


def _encoders(pipeline: Any) -> Iterator[tuple[Any, str]]:
    for number in ("", "_2", "_3", "_4"):
        tokenizer = getattr(pipeline, f"tokenizer{number}", None)
        encoder = getattr(pipeline, f"text_encoder{number}", None)
        if callable(tokenizer) and encoder is not None:
            yield tokenizer, type(encoder).__name__


def _limit(pipeline: Any, tokenizer: Any) -> int | None:
    """How many tokens are read, special ones among them; None if nobody tells."""
    limit = getattr(tokenizer, "model_max_length", _ENDLESS)
    call = inspect.signature(pipeline.__call__).parameters
    # CLIP reads what it was trained with; pipelines choose for others.
    if "max_sequence_length" in call and "CLIP" not in type(tokenizer).__name__:
        limit = call["max_sequence_length"].default
    return limit if isinstance(limit, int) and limit < _ENDLESS else None


def _cut(tokenizer: Any, text: str, limit: int) -> str:
    """The part of a text that is behind the last token that is read."""
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    room = limit - tokenizer.num_special_tokens_to_add(pair=False)
    if len(ids) <= room:
        return ""
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(
            text, add_special_tokens=False, verbose=False, return_offsets_mapping=True
        )
        start = found["offset_mapping"][room][0]
        while start > 0 and not text[start - 1].isspace():
            start -= 1  # the whole word
        return text[start:].strip()
    return str(tokenizer.decode(ids[room:])).strip()


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:150]} ... {text[-45:]}"
