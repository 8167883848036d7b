"""The family of LTX-Video, whose pipelines pack the latents into tokens."""

from __future__ import annotations

__all__ = ["LTXVideo"]

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.image_tokens import GridError
from .advice import Advice
from .base import Arguments
from .transformer import Transformer


class LTXVideo(Transformer):
    """Self-attention of a video's tokens, and cross-attention to the text.

    Latents come as a sequence, and the call says what grid it is.
    """

    name: ClassVar[str] = "LTX-Video"
    denoisers: ClassVar[tuple[str, ...]] = ("LTXVideoTransformer3DModel",)
    advised: ClassVar[tuple[Advice, ...]] = (
        Advice(
            "slg",
            "b19",
            "Hyung et al. 2025 (STG), in the community pipelines of diffusers",
            scale=1.0,
            model="2B",
            fits=lambda config: config.num_layers == 28,
        ),
    )
    packed: ClassVar[bool] = True
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    cross: ClassVar[str | None] = "attn2"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}
    tied_to_size: ClassVar[tuple[str, ...]] = ("num_frames", "height", "width", "video_coords")

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        """The grid of the tokens, read from their coordinates if these are given.

        Raises:
            GridError: If the tokens are given by coordinates that form no grid.
        """
        coordinates: Tensor | None = argument("video_coords")
        if coordinates is None:
            return (argument("num_frames"), argument("height"), argument("width"))
        axes = [axis.unique() for axis in coordinates[0]]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
        if not torch.equal(places, coordinates[0]):
            raise GridError(
                "the coordinates of these tokens form no grid of frames, rows and columns; "
                "expected a video without separate conditioning frames"
            )
        return tuple(len(axis) for axis in axes)
