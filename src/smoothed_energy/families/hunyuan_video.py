"""The family of HunyuanVideo."""

from __future__ import annotations

__all__ = ["HunyuanVideo"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .advice import Advice
from .base import Setting, Step
from .transformer import Transformer
from .true_cfg import true_cfg

_BOTH = ("hidden_states", "encoder_hidden_states")


class HunyuanVideo(Transformer):
    """Video and text attend together, the video's tokens first, in two stacks of blocks."""

    name: ClassVar[str] = "HunyuanVideo"
    denoisers: ClassVar[tuple[str, ...]] = ("HunyuanVideoTransformer3DModel",)
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice(
            "slg",
            "b2",
            "Hyung et al. 2025 (STG), in the community pipelines of diffusers",
            scale=1.0,
            model="20 double blocks",
            fits=lambda config: config.num_layers == 20,
        ),
    )
    stacks: ClassVar[Mapping[str, str]] = {
        "b": "transformer_blocks",
        "s": "single_transformer_blocks",
    }
    text: ClassVar[Any] = "after"
    text_arguments: ClassVar[tuple[str, ...]] = (
        "encoder_hidden_states",
        "encoder_attention_mask",
        "pooled_projections",
    )
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": _BOTH, "s": _BOTH}

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return true_cfg(setting, "negative_prompt_embeds", "negative_pooled_prompt_embeds")
