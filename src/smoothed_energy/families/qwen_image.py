"""The family of Qwen-Image: pictures, edited ones, and layers as frames."""

from __future__ import annotations

__all__ = ["QwenImage"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.latent_layout import LatentLayout, Packed
from .base import Arguments, Setting, Step
from .transformer import Transformer
from .true_cfg import true_cfg


class QwenImage(Transformer):
    """Text and image attend together, the text's tokens first.

    Latents come as tokens `(B, T, C)`, with the sizes of all pictures in them: the image, then the
    pictures that it is made from. Qwen-Image-Layered makes several, which are frames here.
    """

    name: ClassVar[str] = "Qwen-Image"
    denoisers: ClassVar[tuple[str, ...]] = ("QwenImageTransformer2DModel",)
    time_factor: ClassVar[float] = 1000.0
    text: ClassVar[Any] = "before"
    text_arguments: ClassVar[tuple[str, ...]] = (
        "encoder_hidden_states",
        "encoder_hidden_states_mask",
    )
    text_masks: ClassVar[Mapping[str, str]] = {
        "encoder_hidden_states": "encoder_hidden_states_mask"
    }
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("encoder_hidden_states", "hidden_states")
    }
    tied_to_size: ClassVar[tuple[str, ...]] = ("controlnet_block_samples",)

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        config: Any = denoiser.config
        pictures = argument("img_shapes")[0]
        if not isinstance(pictures, list):  # one for each row, where there are no others
            pictures = [pictures]
        frames, *sides = pictures[0]
        if config.use_layer3d_rope:
            frames *= len(pictures) - 1
        return (frames, *sides) if frames > 1 else tuple(sides)

    @override
    def latent_layout(self, denoiser: nn.Module, argument: Arguments) -> LatentLayout:
        grid = argument.once(self.grid, denoiser)
        patch = self.patch(denoiser)
        return Packed(grid, (*[1] * (len(grid) - len(patch)), *patch))

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        # The pipelines give their sum the norm of the conditional prediction.
        normalises = bool(setting("cfg_normalize", True))
        return replace(true_cfg(setting, "negative_prompt_embeds"), normalises=normalises)
