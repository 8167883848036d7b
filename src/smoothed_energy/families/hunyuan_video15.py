"""The family of HunyuanVideo 1.5, whose pipelines have a guider."""

from __future__ import annotations

__all__ = ["HunyuanVideo15"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .guider_cfg import guider_layout
from .transformer import Transformer


class HunyuanVideo15(Transformer):
    """Video, picture and text attend together, the video's tokens first."""

    name: ClassVar[str] = "HunyuanVideo 1.5"
    denoisers: ClassVar[tuple[str, ...]] = ("HunyuanVideo15Transformer3DModel",)
    text: ClassVar[Any] = "after"
    text_arguments: ClassVar[tuple[str, ...]] = (
        "encoder_hidden_states",
        "encoder_attention_mask",
        "encoder_hidden_states_2",
        "encoder_attention_mask_2",
    )
    text_masks: ClassVar[Mapping[str, str]] = {
        "encoder_hidden_states": "encoder_attention_mask",
        "encoder_hidden_states_2": "encoder_attention_mask_2",
    }
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("hidden_states", "encoder_hidden_states")
    }

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return guider_layout(setting("guider", None))
