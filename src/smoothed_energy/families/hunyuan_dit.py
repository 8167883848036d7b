"""The family of HunyuanDiT."""

from __future__ import annotations

__all__ = ["HunyuanDiT"]

from collections.abc import Mapping
from typing import ClassVar

from .advice import Advice
from .transformer import Transformer


class HunyuanDiT(Transformer):
    """Self-attention of the image's tokens with rotary embedding, and cross-attention to the text.

    Blocks of the second half also get what blocks of the first half gave, as in a U-Net.
    """

    name: ClassVar[str] = "HunyuanDiT"
    denoisers: ClassVar[tuple[str, ...]] = ("HunyuanDiT2DModel",)
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice(
            "pag",
            "b14",
            "diffusers' HunyuanDiTPAGPipeline, its example",
            scale=3.0,
            model="40 blocks",
            fits=lambda config: config.num_layers == 40,
        ),
    )
    learned_variance: ClassVar[bool] = True
    stacks: ClassVar[Mapping[str, str]] = {"b": "blocks"}
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = (
        "encoder_hidden_states",
        "text_embedding_mask",
        "encoder_hidden_states_t5",
        "text_embedding_mask_t5",
    )
    # A row for each token, and there may be as many of them as samples.
    unbatched: ClassVar[frozenset[str]] = frozenset({"image_rotary_emb"})
    tied_to_size: ClassVar[tuple[str, ...]] = ("image_rotary_emb", "controlnet_block_samples")
