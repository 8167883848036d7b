"""The family of PixArt-alpha and PixArt-Sigma."""

from __future__ import annotations

__all__ = ["PixArt"]

from collections.abc import Mapping
from typing import ClassVar

from .advice import Advice
from .transformer import Transformer


class PixArt(Transformer):
    """Self-attention of the image's tokens, and cross-attention to the text."""

    name: ClassVar[str] = "PixArt"
    denoisers: ClassVar[tuple[str, ...]] = ("PixArtTransformer2DModel",)
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice(
            "pag",
            "b14",
            "diffusers' PixArtSigmaPAGPipeline, its example",
            scale=4.0,
            model="28 blocks",
            fits=lambda config: config.num_layers == 28,
        ),
    )
    learned_variance: ClassVar[bool] = True
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}
