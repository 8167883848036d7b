"""Attention of ComfyUI by the native function, where a pass waits for it.

ComfyUI computes attention with what is fastest on a machine (xformers, Sage, ...), and layers pass
on a function of the run's that may be put in its place: `optimized_attention_override` in the
`transformer_options`. Here it takes the native function in those layers that are edited or looked
at, and whatever it would have been in all others.
"""

from __future__ import annotations

__all__ = ["natively_where_intercepted"]

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ...intercept.attention import is_intercepted

# What says nothing of the result.
_IGNORED = frozenset(
    {"attn_precision", "transformer_options", "_inside_attn_wrapper", "low_precision_attention"}
)
_PASSED_ON = frozenset({"scale", "enable_gqa"})


def natively_where_intercepted(previous: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """The function that attends in place of ComfyUI's own.

    Args:
        previous: What somebody else put in its place; None if nobody did.
    """
    return functools.partial(_attend, previous)


def _attend(
    previous: Callable[..., Tensor] | None,
    function: Callable[..., Tensor],
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """One attention: as it would have been, or natively if somebody waits for it."""
    if is_intercepted():
        return _native(*args, **kwargs)
    if previous is not None:
        return previous(function, *args, **kwargs)
    return function(*args, **kwargs)


def _native(  # noqa: PLR0913 - the arguments of attention in ComfyUI
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    *ignored: Any,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **others: Any,
) -> Tensor:
    """Attention with the arguments of ComfyUI's.

    Args:
        q: `(B, T, heads d)`, or `(B, heads, T, d)`.
        k: The keys.
        v: The values.
        heads: The number of heads.
        mask: What is added to the logits, or where there are some: from `(T, S)` to
            `(B, heads, T, S)`.
        ignored: The precision.
        skip_reshape: Whether heads have an axis of their own already.
        skip_output_reshape: Whether they keep it.
        others: Other arguments by their names.

    Raises:
        RuntimeError: If there is an argument that is not known.
    """
    unknown = sorted(others.keys() - _IGNORED - _PASSED_ON)
    if unknown or len(ignored) > 1:
        raise RuntimeError(
            f"attention of ComfyUI was given {', '.join(unknown) or 'more arguments'}, which is "
            "not known, so it can't be perturbed; expected another version of ComfyUI, or other "
            "layers"
        )
    if not skip_reshape:
        q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    while mask is not None and mask.ndim < 4:
        # Rows come before heads.
        mask = mask.unsqueeze(1) if mask.ndim == 3 else mask.unsqueeze(0)
    options = {name: others[name] for name in _PASSED_ON & others.keys()}
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)
