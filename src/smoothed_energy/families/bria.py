"""The family of Bria 3.2."""

from __future__ import annotations

__all__ = ["Bria"]

from dataclasses import replace
from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .flux import Flux
from .transformer import Transformer


class Bria(Flux):
    """Two streams and then one, as in Flux; CFG in one batch."""

    name: ClassVar[str] = "Bria"
    denoisers: ClassVar[tuple[str, ...]] = ("BriaTransformer2DModel",)
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
    time_factor: ClassVar[float] = 1.0

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        layout = Transformer.layout(self, denoiser, setting, step)
        # The sum gets the standard deviation of c, which must stay as it is.
        if layout.has_cfg and setting("normalize", False):
            return replace(layout, rescale_scale=layout.cfg_scale, normalises=True)
        return layout
