"""The family of Ovis-Image."""

from __future__ import annotations

__all__ = ["OvisImage"]

from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .flux import Flux
from .true_cfg import two_calls


class OvisImage(Flux):
    """Two streams and then one, as in Flux; CFG in two calls."""

    name: ClassVar[str] = "Ovis-Image"
    denoisers: ClassVar[tuple[str, ...]] = ("OvisImageTransformer2DModel",)
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return two_calls(setting)
