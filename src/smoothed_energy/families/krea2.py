"""The family of Krea 2, whose pipeline packs the latents into tokens."""

from __future__ import annotations

__all__ = ["Krea2"]

from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Arguments, Setting, Step
from .transformer import Transformer


class Krea2(Transformer):
    """Text and image are one sequence, the text's tokens first.

    Latents come as tokens `(B, T, C)`, with a position `(0, row, column)` for each of them, after
    those of the text.
    """

    name: ClassVar[str] = "Krea 2"
    denoisers: ClassVar[tuple[str, ...]] = ("Krea2Transformer2DModel",)
    packed: ClassVar[bool] = True
    time_factor: ClassVar[float] = 1000.0
    text: ClassVar[Any] = "before"
    # Its places are of texts of one length, so that none can be padded.
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    unbatched: ClassVar[frozenset[str]] = frozenset({"position_ids"})
    tied_to_size: ClassVar[tuple[str, ...]] = ("position_ids",)

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        """The pipeline makes the patches."""
        return (2, 2)

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        # Half precision rounds large positions, but no other row becomes the first.
        places = argument("position_ids")[-argument(self.sample).shape[1] :]
        width = int((places[:, 1] == places[0, 1]).sum())
        return (len(places) // width, width)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """Two calls, and c + s (c - u), with the s that the call was given."""
        scale = float(setting("arguments", {})["guidance_scale"])
        if not setting("do_classifier_free_guidance", scale > 0):
            return BatchLayout()
        return BatchLayout(separate=True, cfg_scale=1 + scale)
