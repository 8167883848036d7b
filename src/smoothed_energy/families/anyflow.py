"""The family of AnyFlow, which predicts from one time to another, with frames before channels."""

from __future__ import annotations

__all__ = ["AnyFlow"]

from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .skyreels_v2 import SkyReelsV2
from .transformer import FramesFirstTransformer, Transformer


class AnyFlow(FramesFirstTransformer, SkyReelsV2):
    """Wan's blocks, told two times for every frame; latents are `(B, F, C, H, W)`."""

    name: ClassVar[str] = "AnyFlow"
    denoisers: ClassVar[tuple[str, ...]] = ("AnyFlowTransformer3DModel",)
    listed: ClassVar[frozenset[str]] = frozenset()
    scale_of_call: ClassVar[bool] = True

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """One batch, and not two calls as in Wan."""
        return Transformer.layout(self, denoiser, setting, step)
