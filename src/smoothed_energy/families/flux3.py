"""The family of Flux 3, whose blocks first see the image, the references and the text apart."""

from __future__ import annotations

__all__ = ["Flux3"]

from collections.abc import Mapping
from typing import ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.image_tokens import ImageTokens
from .base import Arguments
from .flux import Flux

# The blocks of the image alone.
_ALONE = "mode_blocks.image"


class Flux3(Flux):
    """A stack of blocks over the image's tokens, then one over those of text, image, references."""

    name: ClassVar[str] = "Flux 3"
    denoisers: ClassVar[tuple[str, ...]] = ("Flux3Transformer2DModel",)
    stacks: ClassVar[Mapping[str, str]] = {"b": _ALONE, "s": "single_transformer_blocks"}
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "s": ("encoder_hidden_states", "hidden_states")
    }
    unbatched: ClassVar[frozenset[str]] = frozenset({"img_ids", "txt_ids", "image_cond_ids"})
    tied_to_size: ClassVar[tuple[str, ...]] = ()

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        return super().tokens(denoiser, argument, layer, count - _references(argument, layer))

    @override
    def beside_text(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> tuple[int | tuple[int, ...], int]:
        start, length = super().beside_text(denoiser, argument, layer, count)
        return start, length + _references(argument, layer)


def _references(argument: Arguments, layer: str) -> int:
    """How many tokens of references a layer has, after the image's."""
    given = argument("image_cond_hidden_states")
    return 0 if given is None or layer.startswith(_ALONE) else int(given.shape[1])
