"""The families of Stable Audio."""

from __future__ import annotations

__all__ = ["StableAudio", "StableAudio3"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from .audio import Audio


class StableAudio(Audio):
    """Self-attention over time, and one token before for what holds of the whole."""

    name: ClassVar[str] = "Stable Audio"
    tells_timesteps: ClassVar[bool] = False
    denoisers: ClassVar[tuple[str, ...]] = ("StableAudioDiTModel",)
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}
    text: ClassVar[Any] = "before"
    unbatched: ClassVar[frozenset[str]] = frozenset({"rotary_embedding"})


class StableAudio3(Audio):
    """Self-attention over time and some learned tokens before.

    It is the difference of two attentions, of queries of their own. What is done to one, is done to
    both.
    """

    name: ClassVar[str] = "Stable Audio 3"
    tells_timesteps: ClassVar[bool] = False
    denoisers: ClassVar[tuple[str, ...]] = ("StableAudio3DiTModel",)
    why_no_text: ClassVar[str] = (
        "its attention to the text is the difference of two, which are no weights alone"
    )
    attention: ClassVar[tuple[str, ...]] = ("self_attn",)
    text: ClassVar[Any] = "before"

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        # Both queries, both keys and the values come of one projection.
        config: Any = denoiser.config
        found = super().layers(denoiser)
        return tuple(replace(layer, width=config.embed_dim) for layer in found)
