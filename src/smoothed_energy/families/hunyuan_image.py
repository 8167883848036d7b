"""The family of HunyuanImage 2.1 and its refiner."""

from __future__ import annotations

__all__ = ["HunyuanImage"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .guider_cfg import guider_layout
from .transformer import Transformer

_BOTH = ("hidden_states", "encoder_hidden_states")


class HunyuanImage(Transformer):
    """Image and text attend together, the image's tokens first, in two stacks of blocks.

    CFG is done by a guider, of which the pipeline may have another for prompts with texts to draw.
    """

    name: ClassVar[str] = "HunyuanImage"
    denoisers: ClassVar[tuple[str, ...]] = ("HunyuanImageTransformer2DModel",)
    stacks: ClassVar[Mapping[str, str]] = {
        "b": "transformer_blocks",
        "s": "single_transformer_blocks",
    }
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
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": _BOTH, "s": _BOTH}

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        usual, other = setting("guider", None), setting("ocr_guider", None)
        found = guider_layout(usual)
        if other is not None and guider_layout(other) != found:
            raise RuntimeError(
                "the pipeline's guider and ocr_guider differ, and which of them is used follows "
                "from the prompt's embeddings; expected two alike, or one: pipeline.ocr_guider = "
                "None"
            )
        return found
