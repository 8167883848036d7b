"""The family of Kandinsky 5: videos and pictures, whose latents have channels last."""

from __future__ import annotations

__all__ = ["Kandinsky5"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.latent_layout import ChannelsLast, LatentLayout
from ..intercept.module_call import ModuleCall
from .base import Arguments, Setting, Step
from .transformer import Transformer


class Kandinsky5(Transformer):
    """Self-attention of a video's tokens, and cross-attention to the text.

    Latents are `(B, F, H, W, C)`; a picture is a video of one frame. Models for long videos have
    sparse attention (`attention_type="nabla"`), by a compiled kernel that shows no softmax.
    """

    name: ClassVar[str] = "Kandinsky 5"
    denoisers: ClassVar[tuple[str, ...]] = ("Kandinsky5Transformer3DModel",)
    stacks: ClassVar[Mapping[str, str]] = {"b": "visual_transformer_blocks"}
    attention: ClassVar[tuple[str, ...]] = ("self_attention",)
    cross: ClassVar[str | None] = "cross_attention"
    # The text runs through blocks of its own, which are told the time.
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "pooled_projections")
    text_runs_along: ClassVar[bool] = True
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": ("visual_embed",)}
    unbatched: ClassVar[frozenset[str]] = frozenset(
        {"visual_rope_pos", "text_rope_pos", "scale_factor", "sparse_params"}
    )
    tied_to_size: ClassVar[tuple[str, ...]] = ("visual_rope_pos",)

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        config: Any = denoiser.config
        softmax = config.get("attention_type", "regular") == "regular"
        return tuple(replace(layer, softmax=softmax) for layer in super().layers(denoiser))

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        _, *sizes, _ = argument(self.sample).shape
        return tuple(size // part for size, part in zip(sizes, self.patch(denoiser), strict=True))

    @override
    def latents(self, argument: Arguments) -> Any:
        """The first channels: what they are conditioned on may follow, and a mask, one channel."""
        given = argument(self.sample)
        return given[..., : given.shape[-1] // 2] if given.shape[-1] % 2 else given

    @override
    def with_latents(self, call: ModuleCall, latents: Tensor) -> ModuleCall:
        rest = call.argument(self.sample)[..., latents.shape[-1] :]
        return call.replace(self.sample, torch.cat([latents, rest], dim=-1))

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        return ChannelsLast()

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """Two calls, with the scale of the pipeline's call whatever a callback changed."""
        if super().layout(denoiser, setting, step).groups == 1:
            return BatchLayout()
        return BatchLayout(separate=True, cfg_scale=setting("arguments", {})["guidance_scale"])
