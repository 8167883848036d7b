"""Self-attention whose queries come in slices, put together from them."""

from __future__ import annotations

__all__ = ["of_blocks", "of_slices", "together"]

from collections.abc import Sequence

import torch

from .attention import Attention, AttentionBackendError, LayerAttention


def together(found: LayerAttention) -> list[list[Attention]]:
    """The noted attentions, in order, those together whose slices of queries are a whole.

    Raises:
        AttentionBackendError: If they are no slices of anything that the layer may have.
    """
    groups: list[list[Attention]] = []
    for item in found.noted:
        last = groups[-1] if groups else []
        count = sum(one.queries for one in last)
        if last and count < max(found.wholes) and _have_same_keys(last[0], item):
            last.append(item)
        else:
            groups.append([item])
    for group in groups:
        if sum(one.queries for one in group) not in found.wholes and not _merged(found):
            raise found.refusal(
                f"attends with {group[0].queries} queries at once, which are neither its "
                f"{found.image} tokens nor slices of them with the same keys"
            )
    return groups


def of_slices(
    found: LayerAttention, groups: Sequence[Sequence[Attention]]
) -> list[Attention | None]:
    """The layer's attention that each group is, put together; None if it is something else.

    Raises:
        AttentionBackendError: If the layer's self-attention is not among them.
    """
    whole = [_joined(group) for group in groups]
    own = found.check_all(whole)
    return [one if is_own else None for one, is_own in zip(whole, own, strict=True)]


def of_blocks(found: LayerAttention, *, own_keys: bool) -> list[Attention | None] | None:
    """The image's attention among those of a sequence that attends in blocks, None for the others.

    Blocks share the queries among them. One of them sees all tokens, and the image's are in it.
    None altogether if what was noted are no such blocks.

    Args:
        found: What was noted.
        own_keys: Whether keys must be of the same tokens as the queries.

    Raises:
        AttentionBackendError: If they are, and keys must be the image's own.
    """
    tokens = sum(one.queries for one in found.noted)
    seeing_all = [one for one in found.noted if one.key.shape[-2] == tokens]
    if tokens not in found.wholes or len(seeing_all) != 1:
        return None
    (image,) = seeing_all
    if own_keys:
        raise found.refusal(
            f"has {image.queries} queries and {tokens} keys, which are not of the same tokens, as "
            "this method needs them to be"
        )
    return [one if one is image else None for one in found.noted]


def _merged(found: LayerAttention) -> bool:
    """Whether the layer's tokens were merged into fewer, which attend to each other at once."""
    only = found.noted[0]
    whole = only.query.ndim == 4 and len(only.query) == found.rows
    fewer = only.queries < found.image and only.has_a_key_for_each_query
    return len(found.noted) == 1 and whole and fewer


def _have_same_keys(one: Attention, other: Attention) -> bool:
    if one.key.shape != other.key.shape or one.query.shape[:-2] != other.query.shape[:-2]:
        return False
    return all(
        a.data_ptr() == b.data_ptr() or torch.equal(a, b)
        for a, b in ((one.key, other.key), (one.value, other.value))
    )


def _joined(slices: Sequence[Attention]) -> Attention:
    """The attention of which slices of the queries were computed one by one."""
    first = slices[0]
    if len(slices) == 1:
        return first
    options = dict(first.options)
    if options.get("is_causal"):
        raise AttentionBackendError("causal attention in slices of queries can't be put together")
    mask = options.get("attn_mask")
    if mask is not None and mask.shape[-2] != 1:
        options["attn_mask"] = torch.cat([one.options["attn_mask"] for one in slices], dim=-2)
    query = torch.cat([one.query for one in slices], dim=-2)
    return first._replace(query=query, options=options)
