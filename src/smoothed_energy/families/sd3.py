"""The family of Stable Diffusion 3 and 3.5."""

from __future__ import annotations

__all__ = ["StableDiffusion3"]

from collections.abc import Mapping
from typing import Any, ClassVar

from .transformer import Transformer


class StableDiffusion3(Transformer):
    """Image and text attend together, the image's tokens first.

    Some blocks of SD 3.5 medium have a second attention, of the image's tokens alone.
    """

    name: ClassVar[str] = "Stable Diffusion 3"
    denoisers: ClassVar[tuple[str, ...]] = ("SD3Transformer2DModel",)
    attention: ClassVar[tuple[str, ...]] = ("attn", "attn2")
    text: ClassVar[Any] = "after"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "pooled_projections")
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("encoder_hidden_states", "hidden_states")
    }
    tied_to_size: ClassVar[tuple[str, ...]] = ("block_controlnet_hidden_states",)
