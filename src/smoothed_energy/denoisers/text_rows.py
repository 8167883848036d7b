"""Rows of a batch with other texts: as many as are asked for, and of one length."""

from __future__ import annotations

__all__ = ["fit_texts", "pad_texts"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def fit_texts(
    names: Sequence[str],
    masks: Mapping[str, str],
    text: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """What some arguments are for another text, with as many rows as they have.

    Args:
        names: The arguments that follow from a text.
        masks: The argument that masks another one, by the name of that.
        text: Those of the other text: tensors or lists, of one row for all, or of as many.
        arguments: The arguments as they are, for the same rows.

    Raises:
        ValueError: If some are missing, of another kind, or have other rows.
    """
    there = [name for name in names if arguments.get(name) is not None]
    unknown = [name for name in text if name not in names]
    missing = [name for name in there if text.get(name) is None and name not in masks.values()]
    if unknown or missing:
        raise ValueError(
            f"the negative text is given as {', '.join(text) or 'nothing'}; expected "
            f"{', '.join(there)}"
        )
    found = {
        name: _fitted(name, text[name], arguments[name])
        for name in there
        if text.get(name) is not None
    }
    for name, mask in masks.items():
        tokens, given = found.get(name), text.get(mask)
        if tokens is None or mask in found:
            continue
        if given is not None:  # Only the other text has one.
            found[mask] = _fitted(mask, given, tokens)
        elif mask in there:
            like: Tensor = arguments[mask]
            found[mask] = like.new_ones(_of_tokens(tokens))
    return found


def _fitted(name: str, text: Any, like: Any) -> Any:
    """An argument for another text, with as many rows as it has.

    Raises:
        ValueError: If it is of another kind, or has another number of rows.
    """
    kind = list if isinstance(like, list) else Tensor
    if not isinstance(text, kind):
        raise ValueError(
            f"the negative text's {name} is a {type(text).__name__}, and the prompt's a "
            f"{type(like).__name__}; expected the same kind of both"
        )
    rows, wanted = len(text), len(like)
    if rows != wanted and rows != 1:
        raise ValueError(
            f"the negative text's {name} has {rows} rows for {wanted} rows of prompts; expected "
            "one row, or as many"
        )
    if isinstance(text, list):
        return text if rows == wanted else text * wanted
    moved: Tensor = text.to(like.device)
    return moved if rows == wanted else moved.expand(wanted, *moved.shape[1:])


def pad_texts(
    masks: Mapping[str, str], arguments: dict[str, Any], text: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a call, and those of another text, with texts of one length.

    Args:
        masks: The argument that masks another one, by the name of that.
        arguments: The arguments.
        text: The other text's.

    Raises:
        ValueError: If texts differ in length, and no argument masks them.
    """
    arguments, text = dict(arguments), dict(text)
    for name, other in list(text.items()):
        value = arguments[name]
        if not isinstance(value, Tensor) or value.ndim < 3:
            continue
        lengths = value.shape[-2], other.shape[-2]
        if lengths[0] == lengths[1]:
            continue
        if name not in masks:
            raise ValueError(
                f"the negative text has {lengths[1]} tokens ({name}), and the prompt {lengths[0]}; "
                "expected texts encoded to one length, since they can't be filled up here"
            )
        mask = masks[name]
        for found in (arguments, text):
            tokens, given = found[name], found.get(mask)
            if given is None:
                given = torch.ones(_of_tokens(tokens), dtype=torch.bool, device=tokens.device)
            more = max(lengths) - tokens.shape[-2]
            found[name] = torch.nn.functional.pad(tokens, (0, 0, 0, more))
            found[mask] = torch.nn.functional.pad(given.to(torch.bool), (0, more))
    for name in masks.values():
        # A mask of one of them alone says that all tokens of the other are its own.
        for one, other in ((arguments, text), (text, arguments)):
            if one.get(name) is None and other.get(name) is not None:
                one[name] = torch.ones_like(other[name][:1]).expand(_rows(one, masks, name), -1)
    return arguments, {key: value for key, value in text.items() if value is not None}


def _rows(found: Mapping[str, Any], masks: Mapping[str, str], mask: str) -> int:
    (name,) = [name for name, other in masks.items() if other == mask]
    return len(found[name])


def _of_tokens(text: Tensor) -> tuple[int, int]:
    """The rows and the tokens of a text, `(B, L, C)` or `(B, 1, L, C)`."""
    return text.shape[0], text.shape[-2]
