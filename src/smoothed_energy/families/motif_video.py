"""The family of Motif-Video, whose pipelines have a guider."""

from __future__ import annotations

__all__ = ["MotifVideo"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .guider_cfg import guider_layout
from .transformer import Transformer

_BOTH = ("hidden_states", "encoder_hidden_states")


class MotifVideo(Transformer):
    """Video and text attend together, the video's tokens first, in two stacks of blocks.

    In its last blocks (`num_decoder_layers`) what the blocks before made of the video takes the
    text's place. Attention to the text alone stays as it is.
    """

    name: ClassVar[str] = "Motif-Video"
    denoisers: ClassVar[tuple[str, ...]] = ("MotifVideoTransformer3DModel",)
    stacks: ClassVar[Mapping[str, str]] = {
        "b": "transformer_blocks",
        "s": "single_transformer_blocks",
    }
    text: ClassVar[Any] = "after"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": _BOTH, "s": _BOTH}

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return guider_layout(setting("guider", None))
