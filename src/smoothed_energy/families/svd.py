"""The family of Stable Video Diffusion, which makes a video of a picture."""

from __future__ import annotations

__all__ = ["StableVideoDiffusion"]

from typing import ClassVar

import torch
from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import ImageTokens
from ..denoisers.latent_layout import FramesFirst, LatentLayout
from .animatediff import AnimateDiff, level_grid
from .base import Arguments, Setting, Step


class StableVideoDiffusion(AnimateDiff):
    """Every transformer has blocks within frames and blocks over time (``t``), in turn.

    Latents are `(B, F, C, H, W)`, those of the picture after the noisy ones.
    """

    name: ClassVar[str] = "Stable Video Diffusion"
    tells_timesteps: ClassVar[bool] = False
    denoisers: ClassVar[tuple[str, ...]] = ("UNetSpatioTemporalConditionModel",)
    why_no_text: ClassVar[str] = "it has no text, but a picture"
    motion: ClassVar[tuple[str, ...]] = (".temporal_transformer_blocks.",)
    frames: ClassVar[int] = 1
    # What it attends to is a picture.
    text_arguments: ClassVar[tuple[str, ...]] = ()
    folded: ClassVar[frozenset[str]] = frozenset()

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        """A block over time gets the tokens of every frame by itself, and turns them round."""
        found = super().tokens(denoiser, argument, layer, count)
        if found.folded is not None:
            return found
        shape = argument(self.sample).shape
        size = argument.features.get(layer) or level_grid(denoiser, layer, shape)
        within = ImageTokens((shape[self.frames], *size), folded="frames")
        return within if within.count == count else found

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        return FramesFirst()

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """CFG's scale grows from frame to frame; it is one if the first and the last are equal."""
        scale = torch.as_tensor(setting("guidance_scale", 1.0))
        if not setting("do_classifier_free_guidance", bool(scale.max() > 1)):
            return BatchLayout()
        same = bool(scale.min() == scale.max())
        return BatchLayout(
            2, conditional=1, unconditional=0, cfg_scale=float(scale.max()) if same else None
        )

    @override
    def _place(self, layer: str) -> tuple[int, list[int], bool]:
        start, numbers, over_time = super()._place(layer)
        block = int(layer.rsplit(".", 2)[-2])
        return start, [*numbers, block], over_time
