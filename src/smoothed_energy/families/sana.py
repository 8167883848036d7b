"""The family of Sana and Sana-Sprint, whose attention is linear."""

from __future__ import annotations

__all__ = ["Sana"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from .advice import Advice
from .base import Setting, Step
from .transformer import Transformer


class Sana(Transformer):
    """Linear attention of the image's tokens, and cross-attention to the text.

    Linear attention has no softmax(QK^T) to perturb or to look at. The distilled denoiser of
    Sana-Sprint is told the scale of guidance, and another time.
    """

    name: ClassVar[str] = "Sana"
    denoisers: ClassVar[tuple[str, ...]] = ("SanaTransformer2DModel",)
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice(
            "pag",
            "b8",
            "diffusers' SanaPAGPipeline, its example",
            scale=3.0,
            model="1.6B",
            fits=lambda config: config.num_layers == 20,
        ),
    )
    learned_variance: ClassVar[bool] = True
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}
    tied_to_size: ClassVar[tuple[str, ...]] = ("controlnet_block_samples",)

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        return tuple(replace(layer, softmax=False) for layer in super().layers(denoiser))

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """There is no CFG where the scale is an input."""
        if _is_distilled(denoiser):
            return BatchLayout()
        return super().layout(denoiser, setting, step)

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """Sprint's pipelines give sin t / (sin t + cos t)."""
        if _is_distilled(denoiser):
            fraction = torch.as_tensor(value)
            return torch.atan2(fraction, 1 - fraction)
        config: Any = denoiser.config
        return value / float(config.timestep_scale)


def _is_distilled(denoiser: nn.Module) -> bool:
    config: Any = denoiser.config
    return bool(getattr(config, "guidance_embeds", False))
