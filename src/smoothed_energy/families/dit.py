"""The family of DiT, which is told classes in place of prompts."""

from __future__ import annotations

__all__ = ["DiT"]

from dataclasses import replace
from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .transformer import Transformer


class DiT(Transformer):
    """Self-attention of the image's tokens alone. Pictures are squares."""

    name: ClassVar[str] = "DiT"
    denoisers: ClassVar[tuple[str, ...]] = ("DiTTransformer2DModel",)
    why_no_text: ClassVar[str] = "it has no text, but classes"
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    learned_variance: ClassVar[bool] = True

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """The pipeline stacks `[c, u]`."""
        layout = super().layout(denoiser, setting, step)
        return layout if layout.groups == 1 else replace(layout, conditional=0, unconditional=1)
