"""The family of Bria Fibo and its edits."""

from __future__ import annotations

__all__ = ["BriaFibo"]

from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .flux import Flux
from .transformer import Transformer


class BriaFibo(Flux):
    """Two streams and then one, as in Flux, of pixels of the latents; CFG in one batch."""

    name: ClassVar[str] = "Bria Fibo"
    denoisers: ClassVar[tuple[str, ...]] = ("BriaFiboTransformer2DModel",)
    text_arguments: ClassVar[tuple[str, ...]] = ()
    why_no_text: ClassVar[str] = (
        "every block has a text of its own, in a list, and masks are among its other arguments"
    )
    cfg_of_call: ClassVar[bool] = True
    time_factor: ClassVar[float] = 1.0

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        """Tokens are pixels; those of `do_patching`, which only the pipeline knows, stay whole."""
        return (1, 1)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return Transformer.layout(self, denoiser, setting, step)
