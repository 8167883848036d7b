"""The family of Stable Diffusion 3 and 3.5."""

from __future__ import annotations

__all__ = ["StableDiffusion3"]

from collections.abc import Mapping
from typing import Any, ClassVar

from .advice import Advice
from .transformer import Transformer


class StableDiffusion3(Transformer):
    """Image and text attend together, the image's tokens first.

    Some blocks of SD 3.5 medium have a second attention, of the image's tokens alone.
    """

    name: ClassVar[str] = "Stable Diffusion 3"
    denoisers: ClassVar[tuple[str, ...]] = ("SD3Transformer2DModel",)
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice(
            "slg",
            "b7.*,b8.*,b9.*",
            "Stability AI, in diffusers' StableDiffusion3Pipeline",
            scale=2.8,
            steps="0.01:0.2",
            model="3.5 medium",
            fits=lambda config: bool(config.dual_attention_layers) and config.num_layers == 24,
        ),
        Advice(
            "pag",
            "b13",
            "diffusers' StableDiffusion3PAGPipeline, its example",
            scale=0.7,
            model="3 medium",
            fits=lambda config: not config.dual_attention_layers and config.num_layers == 24,
        ),
    )
    attention: ClassVar[tuple[str, ...]] = ("attn", "attn2")
    text: ClassVar[Any] = "after"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "pooled_projections")
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("encoder_hidden_states", "hidden_states")
    }
    tied_to_size: ClassVar[tuple[str, ...]] = ("block_controlnet_hidden_states",)
