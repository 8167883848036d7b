"""The family of Cosmos: Predict 1, 2 and 2.5, and Transfer 2.5."""

from __future__ import annotations

__all__ = ["Cosmos"]

from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .transformer import Transformer


class Cosmos(Transformer):
    """Self-attention of a video's tokens, and cross-attention to the text (and the image)."""

    name: ClassVar[str] = "Cosmos"
    tells_timesteps: ClassVar[bool] = False
    denoisers: ClassVar[tuple[str, ...]] = ("CosmosTransformer3DModel",)
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
    unbatched: ClassVar[frozenset[str]] = frozenset({"padding_mask"})
    tied_to_size: ClassVar[tuple[str, ...]] = ("condition_mask", "block_controlnet_hidden_states")

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """Two calls for c + s (c - u), which is u + g (c - u) with g = 1 + s."""
        layout = super().layout(denoiser, setting, step)
        if layout.cfg_scale is None:
            return layout
        return BatchLayout(separate=True, cfg_scale=1 + layout.cfg_scale)
