"""The family of NucleusMoE-Image, whose feed-forward networks are mixtures of experts."""

from __future__ import annotations

__all__ = ["NucleusMoE"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Arguments, Setting, Step
from .transformer import Transformer


class NucleusMoE(Transformer):
    """The image's tokens attend to themselves and to the text's; the text's ask nothing.

    Latents come as tokens `(B, T, C)`, with the size of the picture for each row.
    """

    name: ClassVar[str] = "NucleusMoE"
    denoisers: ClassVar[tuple[str, ...]] = ("NucleusMoEImageTransformer2DModel",)
    packed: ClassVar[bool] = True
    time_factor: ClassVar[float] = 1000.0
    reversed_flow: ClassVar[bool] = True
    tied_to_size: ClassVar[tuple[str, ...]] = ("img_shapes",)
    text_arguments: ClassVar[tuple[str, ...]] = (
        "encoder_hidden_states",
        "encoder_hidden_states_mask",
    )
    text_masks: ClassVar[Mapping[str, str]] = {
        "encoder_hidden_states": "encoder_hidden_states_mask"
    }

    @override
    def attends_beside_text(self, denoiser: nn.Module) -> bool:
        """The text is among the keys."""
        return True

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        shapes: Any = argument("img_shapes")
        _, height, width = shapes[0] if isinstance(shapes, list) else shapes
        return (height, width)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """Two calls, whose sum is as long as c, with the scale that the call was given."""
        scale = float(setting("arguments", {})["guidance_scale"])
        if scale <= 1:
            return BatchLayout()
        return BatchLayout(separate=True, cfg_scale=scale, normalises=True)
