"""The family of Flux, whose pipelines pack the latents into tokens."""

from __future__ import annotations

__all__ = ["Flux"]

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError
from .base import Arguments, Setting, Step
from .transformer import Transformer
from .true_cfg import true_cfg

_BOTH = ("encoder_hidden_states", "hidden_states")


class Flux(Transformer):
    """Text and image attend together, the text's tokens first, in two stacks of blocks.

    Latents come as tokens `(B, T, C)`, with a position `(picture, row, column)` for each of them;
    tokens of a reference picture (Kontext) follow those of the image.

    Attributes:
        picture: The number of the image among the pictures that positions tell of.
    """

    name: ClassVar[str] = "Flux"
    denoisers: ClassVar[tuple[str, ...]] = ("FluxTransformer2DModel",)
    packed: ClassVar[bool] = True
    time_factor: ClassVar[float] = 1000.0
    stacks: ClassVar[Mapping[str, str]] = {
        "b": "transformer_blocks",
        "s": "single_transformer_blocks",
    }
    text: ClassVar[Any] = "before"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "pooled_projections")
    picture: ClassVar[int] = 0
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": _BOTH, "s": _BOTH}
    unbatched: ClassVar[frozenset[str]] = frozenset({"img_ids", "txt_ids"})
    tied_to_size: ClassVar[tuple[str, ...]] = (
        "controlnet_block_samples",
        "controlnet_single_block_samples",
    )

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        """The pipeline makes the patches."""
        return (2, 2)

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        """The grid of the first picture, read from the positions of the tokens.

        Raises:
            GridError: If the image is one of several pictures, and not the first.
        """
        places = argument("img_ids")
        places = places[0] if places.ndim == 3 else places
        image = places[:, 0] == places[0, 0]
        # Half precision rounds large positions, but no other row becomes the first.
        row = image & (places[:, 1] == places[0, 1])
        first, count, width = torch.stack([places[0, 0].long(), image.sum(), row.sum()]).tolist()
        if first != self.picture and count < len(places):
            raise GridError(
                f"the {len(places)} tokens are of several pictures, counted from {first:g}; "
                f"expected the image first, counted {self.picture}"
            )
        return (count // width, width)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return true_cfg(setting, "negative_prompt_embeds", "negative_pooled_prompt_embeds")
