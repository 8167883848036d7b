"""Which of the attentions that a module computes in one call is the self-attention of its layer."""

from __future__ import annotations

__all__ = ["LayerAttention", "by_place"]

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..denoisers.image_tokens import ImageTokens
from ..intercept.attention import Attention, AttentionBackendError
from ..intercept.attention_backends import processor_name
from .perturbation import LayerCall, LayerSite


class LayerAttention:
    """Tells the self-attention in one call of a layer's module from what else attends there.

    Every attention of all the layer's queries to as many keys is its own; the module may attend to
    something else besides (an IP-Adapter's picture). If it has none of these, one attention of all
    its queries to *other keys* is the layer's: to every second token, to a reference's tokens as
    well, to text and image (where the text's queries may attend by themselves).

    Queries, heads and rows may come in slices. From the first slice of queries on all attentions
    are noted, since only the whole of them is one attention.

    Nothing is raised before the call is over: a processor might catch it.

    Args:
        call: The call of the module.
        own_keys: Whether keys must be of the same tokens as the queries.
    """

    def __init__(self, call: LayerCall, *, own_keys: bool) -> None:
        self._call, self._needs_own_keys = call, own_keys
        #: The rows of the module's batch; 0 if they are not known.
        self.rows, image = _size(call.input())
        _, text = _size(call.call.argument("encoder_hidden_states"))
        self._image, self._text = image, 0 if text == image else text
        #: The numbers of queries that the layer may have: beside a text's, or not.
        self._wholes = {image, image + text} if image else set()
        self._own: list[Attention] = []
        self._other: list[Attention] = []
        self._problem: str | None = None
        #: All attentions, if they come in slices of queries.
        self.noted: list[Attention] = []

    def takes(self, attention: Attention) -> bool:
        """Whether an attention, the next in the call, is the layer's; as far as is known so far."""
        if self.noted:
            self.noted.append(attention)
            return False
        whole = self._is_whole(attention)
        if whole and attention.has_a_key_for_each_query:
            self._own.append(attention)
            return True
        if self._own or attention.queries == self._text:
            return False
        if whole:
            self._other.append(attention)
            return not self._needs_own_keys
        if self._other:
            self._problem = "attends several times, never to its own keys"
        else:
            self.noted.append(attention)
        return False

    def check(self) -> None:
        """Check, as the call is over, that what was taken is the layer's self-attention.

        Raises:
            AttentionBackendError: If it is not, or not the whole of it.
        """
        if self._problem is not None:
            pass
        elif self._own and self._other:
            self._problem = "attends to other keys before its own, so it can't be told what for"
        elif self._own:
            self._check_rows(self._own)
        elif self._needs_own_keys and self._other:
            first = self._other[0]
            self._problem = (
                f"has {first.queries} queries and {first.key.shape[-2]} keys, which are not of the "
                "same tokens, as this method needs them to be"
            )
        elif self._other:
            self._check_rows(self._other)
            heads = getattr(self._call.module, "heads", None)
            count = sum(math.prod(one.query.shape[:-2]) for one in self._other)
            if len(self._other) > 1 and count != self.rows * (heads or 1):
                self._problem = "attends several times, never to its own keys"
        elif not self.noted:
            self._problem = "attends with none of its tokens' queries"
        if self._problem is not None:
            raise self.refusal(self._problem)

    def check_at_once(self) -> None:
        """Check, as the call is over, that one attention was all of the layer's.

        Raises:
            AttentionBackendError: If it was not.
        """
        self.check()
        if self.noted or len(self._own or self._other) > 1:
            raise self.refusal("attends in slices, of which each would be measured by itself")

    def together(self) -> list[list[Attention]]:
        """The noted attentions, in order, those together whose slices of queries are a whole.

        Raises:
            AttentionBackendError: If they are no slices of anything that the layer may have.
        """
        groups: list[list[Attention]] = []
        for item in self.noted:
            last = groups[-1] if groups else []
            count = sum(one.queries for one in last)
            if last and count < max(self._wholes) and _have_same_keys(last[0], item):
                last.append(item)
            else:
                groups.append([item])
        for group in groups:
            if sum(one.queries for one in group) not in self._wholes:
                raise self.refusal(
                    f"attends with {group[0].queries} queries at once, which are neither its "
                    f"{self._image} tokens nor slices of them with the same keys"
                )
        return groups

    def of_slices(self, groups: Sequence[Sequence[Attention]]) -> list[Attention | None]:
        """The layer's attention that each group is, put together; None if it is something else.

        Raises:
            AttentionBackendError: If the layer's self-attention is not among them.
        """
        whole = [_joined(group) for group in groups]
        self._own = [one for one in whole if one.has_a_key_for_each_query]
        self._other = [] if self._own else whole
        self.check()
        return [one if one.has_a_key_for_each_query or not self._own else None for one in whole]

    def refusal(self, reason: str) -> AttentionBackendError:
        """An error that names the layer."""
        return AttentionBackendError(
            f"layer {self._call.name!r} ({processor_name(self._call.module)}) {reason}; expected "
            "other layers, a processor whose keys are the layer's own, or another method: "
            "seg; on=query and erg ask for no keys, tpg for no attention"
        )

    def _is_whole(self, attention: Attention) -> bool:
        if not self._image or attention.queries in self._wholes:
            return True
        # A text may come under another name.
        more = attention.queries > self._image and len(attention.query) == self.rows
        return more and attention.has_a_key_for_each_query

    def _check_rows(self, taken: Sequence[Attention]) -> None:
        rows = sum(len(one.query) for one in taken)
        if rows < self.rows:
            self._problem = f"attends in {rows} of the {self.rows} rows of its batch only"


def _size(tokens: Any) -> tuple[int, int]:
    """Rows and number of tokens, `(B, T, C)` or `(B, C, H, W)`; 0 and 0 if it is neither."""
    if not isinstance(tokens, Tensor) or tokens.ndim not in (3, 4):
        return 0, 0
    if tokens.ndim == 3:
        return tokens.shape[0], tokens.shape[1]
    return tokens.shape[0], tokens.shape[2] * tokens.shape[3]


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


def by_place(
    attention: Attention, site: LayerSite, layer: str
) -> Iterator[tuple[list[int], Attention, ImageTokens]]:
    """Rows of an attention in which the image's tokens have the same place, and that place.

    Raises:
        AttentionBackendError: If rows differ in that, and heads lie among them.
    """
    query, key, value, options, native = attention
    batch = len(query)
    image = site.image_tokens(layer, attention.queries)
    if isinstance(image.start, int):
        yield list(range(batch)), attention, image
        return
    if query.ndim != 4:
        raise AttentionBackendError(
            f"layer {layer!r} has queries of shape {tuple(query.shape)}; expected (B, heads, T, "
            "d), since the image's place differs from row to row"
        )
    for rows, found in image.by_start(batch):
        of_rows = _of_samples(options, rows, batch)
        yield rows, Attention(query[rows], key[rows], value[rows], of_rows, native), found


def _of_samples(options: Mapping[str, Any], rows: list[int], batch: int) -> dict[str, Any]:
    """The options of attention for some rows of the batch."""
    options = dict(options)
    mask = options.get("attn_mask")
    if mask is not None and mask.ndim == 4 and mask.shape[0] == batch:
        options["attn_mask"] = mask[rows]
    return options
