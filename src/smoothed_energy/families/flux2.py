"""The family of Flux 2 and its small sisters, Klein."""

from __future__ import annotations

__all__ = ["Flux2"]

from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .flux import Flux
from .true_cfg import two_calls


class Flux2(Flux):
    """Two streams and then one, as in Flux; positions are `(picture, row, column, text)`.

    In the single stream the feed-forward network is a part of the attention module. Flux 2 itself
    is told the scale of guidance; Klein has CFG in two calls, unless it is distilled.
    """

    name: ClassVar[str] = "Flux 2"
    denoisers: ClassVar[tuple[str, ...]] = ("Flux2Transformer2DModel",)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        if not setting("do_classifier_free_guidance", False):
            return BatchLayout()
        return two_calls(setting)
