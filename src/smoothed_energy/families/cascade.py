"""The families of Wuerstchen and Stable Cascade: pictures of few tokens, in stages."""

from __future__ import annotations

__all__ = ["StableCascade", "Wuerstchen"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import PARTS, SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .feature_maps import FeatureMaps


class StableCascade(FeatureMaps):
    """Attention whose keys are the places of a map and the text's tokens.

    Prior and decoder are of one kind.
    """

    name: ClassVar[str] = "Stable Cascade"
    tells_timesteps: ClassVar[bool] = False
    denoisers: ClassVar[tuple[str, ...]] = ("StableCascadeUNet",)
    why_no_text: ClassVar[str] = (
        "its text is among the keys of feature maps, beside those of pictures"
    )
    time: ClassVar[str] = "timestep_ratio"
    tied_to_size: ClassVar[tuple[str, ...]] = ("effnet", "pixels")

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """The pipelines stack `[c, u]`."""
        layout = super().layout(denoiser, setting, step)
        return layout if layout.groups == 1 else replace(layout, conditional=0, unconditional=1)

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """Schedulers of other kinds have timesteps that the denoiser is told as ratios."""
        if not hasattr(scheduler, "betas"):
            return value
        given = float(torch.as_tensor(value).flatten()[0])
        times = torch.as_tensor(scheduler.timesteps)
        alphas = torch.cumprod(1.0 - scheduler.betas, 0)[times.long().cpu()].clamp(0, 1)
        # The time at which a cosine schedule has as much noise.
        start = math.cos(0.008 / 1.008 * math.pi / 2)
        ratios = (alphas.sqrt() * start).acos() / (math.pi / 2) * 1.008 - 0.008
        found: Tensor = times[(ratios - given).abs().argmin()]
        return found


class Wuerstchen(StableCascade):
    """The decoder, as Stable Cascade's, and the prior: one stack at one level, in thirds."""

    name: ClassVar[str] = "Wuerstchen"
    tells_timesteps: ClassVar[bool] = False
    denoisers: ClassVar[tuple[str, ...]] = ("WuerstchenDiffNeXt", "WuerstchenPrior")
    why_no_text: ClassVar[str] = (
        "its text is among the keys of feature maps, beside those of pictures"
    )
    stacks: ClassVar[Mapping[str, str]] = {**StableCascade.stacks, "blocks": "b"}
    sample: ClassVar[str] = "x"
    time: ClassVar[str] = "r"

    @override
    def in_parts(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> tuple[SelfAttentionLayer, ...]:
        if any(layer.letter != "b" for layer in layers):
            return super().in_parts(denoiser, layers)
        count = len(layers)
        return tuple(
            replace(layer, part=PARTS[layer.index * len(PARTS) // count]) for layer in layers
        )

    @override
    def level(self, denoiser: nn.Module, layer: str) -> int:
        return 0 if layer.startswith("blocks.") else super().level(denoiser, layer)
