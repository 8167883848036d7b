"""The family of LongCat-Image and its edits."""

from __future__ import annotations

__all__ = ["LongCatImage"]

from dataclasses import replace
from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .flux import Flux
from .true_cfg import two_calls


class LongCatImage(Flux):
    """Two streams and then one, as in Flux; the image is counted 1, and what it is made from 2."""

    name: ClassVar[str] = "LongCat-Image"
    denoisers: ClassVar[tuple[str, ...]] = ("LongCatImageTransformer2DModel",)
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
    picture: ClassVar[int] = 1

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        renormed = bool(setting("enable_cfg_renorm", False))
        return replace(two_calls(setting), normalises=renormed)
