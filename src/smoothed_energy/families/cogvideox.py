"""The family of CogVideoX 1.0 and 1.5, whose latents have frames before channels."""

from __future__ import annotations

__all__ = ["CogVideoX"]

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .advice import Advice
from .base import Setting, Step
from .transformer import FramesFirstTransformer


class CogVideoX(FramesFirstTransformer):
    """Text and video attend together, the text's tokens first; latents are `(B, F, C, H, W)`."""

    name: ClassVar[str] = "CogVideoX"
    denoisers: ClassVar[tuple[str, ...]] = ("CogVideoXTransformer3DModel",)
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice(
            "slg",
            "b11",
            "Hyung et al. 2025 (STG), in the community pipelines of diffusers",
            scale=1.0,
            model="5B",
            fits=lambda config: config.num_layers == 42,
        ),
    )
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    text: ClassVar[Any] = "before"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("hidden_states", "encoder_hidden_states")
    }
    unbatched: ClassVar[frozenset[str]] = frozenset({"image_rotary_emb", "ofs"})
    tied_to_size: ClassVar[tuple[str, ...]] = ("image_rotary_emb",)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """With `use_dynamic_cfg` the scale follows the timestep."""
        # The scale of the call decides about the batch; the pipeline overwrites its own, and in
        # dynamic CFG only after the denoiser's call.
        given = setting("arguments", {})["guidance_scale"]
        if given <= 1:
            return BatchLayout()
        scale = setting("guidance_scale", given)
        if setting("use_dynamic_cfg", False):
            steps = setting("num_timesteps", 1)
            time = setting("current_timestep", None)
            time = step().timestep if time is None else time  # ConsisID's does not tell it
            passed = (steps - float(time or 0)) / steps
            scale = 1 + given * (1 - math.cos(math.pi * passed**5)) / 2
        return BatchLayout(2, conditional=1, unconditional=0, cfg_scale=scale)
