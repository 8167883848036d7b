"""The family of Chroma, which is Flux without distilled guidance."""

from __future__ import annotations

__all__ = ["Chroma"]

from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .flux import Flux
from .true_cfg import two_calls


class Chroma(Flux):
    """Two streams and then one, as in Flux, with a mask for the text; CFG in two calls."""

    name: ClassVar[str] = "Chroma"
    denoisers: ClassVar[tuple[str, ...]] = ("ChromaTransformer2DModel",)
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "attention_mask")

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return two_calls(setting)
