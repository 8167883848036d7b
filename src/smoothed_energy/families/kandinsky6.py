"""The families of Kandinsky 6: videos with sound, and videos made larger."""

from __future__ import annotations

__all__ = ["Kandinsky6", "Kandinsky6SR"]

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import ImageTokens, TokensWithoutGrid
from ..denoisers.latent_layout import ChannelsLast, LatentLayout
from .base import Arguments, Setting, Step
from .beside_sound import BesideSound
from .kandinsky5 import Kandinsky5
from .transformer import block_of
from .true_cfg import in_two_calls


class Kandinsky6(BesideSound, Kandinsky5):
    """Kandinsky 5 with sound: blocks have two streams, each of which attends to the other.

    A picture to begin with is one more frame after the video's, which stays as it is.
    """

    name: ClassVar[str] = "Kandinsky 6"
    denoisers: ClassVar[tuple[str, ...]] = ("Kandinsky6Transformer3DModel",)
    attention: ClassVar[tuple[str, ...]] = ("video_dec_block.self_attention",)
    cross: ClassVar[str | None] = "video_dec_block.cross_attention"
    text_arguments: ClassVar[tuple[str, ...]] = (
        "encoder_hidden_states",
        "encoder_attention_mask",
        "pooled_projections",
    )
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": ("vis", "aud")}
    returns_none: ClassVar[bool] = True
    # Windows would cut the last axes, which are not those of a picture.
    tied_to_size: ClassVar[tuple[str, ...]] = ("hidden_states",)

    @override
    def block(self, layer: str) -> str:
        """The block of both streams: that of the video is called part by part."""
        return block_of(layer)

    @override
    def feed_forward(self, block: nn.Module) -> nn.Module | None:
        return block.get_submodule("video_dec_block.feed_forward")

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        return ChannelsLast(given=_pictures(argument))

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        found = super().tokens(denoiser, argument, layer, count)
        given = _pictures(argument)
        if isinstance(found, TokensWithoutGrid) or not given:
            return found
        frames, height, width = found.grid
        return ImageTokens((frames - given, height, width))

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """Two calls; a callback may change the scale."""
        return in_two_calls(super(Kandinsky5, self).layout(denoiser, setting, step))


def _pictures(argument: Arguments) -> int:
    """How many frames at the end of a call's latents are pictures, which have a type."""
    return int(argument("visual_token_type_ids") is not None)


class Kandinsky6SR(Kandinsky5):
    """Videos made larger, tile after tile, with no text.

    Attention is sparse, among blocks of 8 x 8 tokens that lie together in the sequence.
    """

    name: ClassVar[str] = "Kandinsky 6 SR"
    denoisers: ClassVar[tuple[str, ...]] = ("Kandinsky6SRTransformer3DModel",)
    cross: ClassVar[str | None] = None
    text_arguments: ClassVar[tuple[str, ...]] = ()
    why_no_text: ClassVar[str] = "it has no text"
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    tied_to_size: ClassVar[tuple[str, ...]] = ("hidden_states",)

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        return tuple(replace(layer, softmax=False) for layer in super().layers(denoiser))

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        return TokensWithoutGrid(count, f"tokens of {layer} lie in blocks of 8 x 8, not in rows")
