"""The family of Allegro."""

from __future__ import annotations

__all__ = ["Allegro"]

from collections.abc import Mapping
from typing import ClassVar

from .transformer import Transformer


class Allegro(Transformer):
    """Self-attention of a video's tokens, and cross-attention to the text."""

    name: ClassVar[str] = "Allegro"
    denoisers: ClassVar[tuple[str, ...]] = ("AllegroTransformer3DModel",)
    cfg_of_call: ClassVar[bool] = True
    scale_of_call: ClassVar[bool] = True
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}
    # A row for each token, and the places of tokens on their grid.
    unbatched: ClassVar[frozenset[str]] = frozenset({"image_rotary_emb"})
    tied_to_size: ClassVar[tuple[str, ...]] = ("image_rotary_emb", "attention_mask")
