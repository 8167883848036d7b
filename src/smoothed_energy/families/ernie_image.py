"""The family of ERNIE-Image, whose blocks have tokens before rows."""

from __future__ import annotations

__all__ = ["ErnieImage"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.image_tokens import GridError, ImageTokens
from .base import Arguments
from .transformer import Transformer


class ErnieImage(Transformer):
    """Image and text attend together, the image's tokens first, in one stack of blocks.

    Attention has rows first, and blocks have tokens first.
    """

    name: ClassVar[str] = "ERNIE-Image"
    denoisers: ClassVar[tuple[str, ...]] = ("ErnieImageTransformer2DModel",)
    scale_of_call: ClassVar[bool] = True
    stacks: ClassVar[Mapping[str, str]] = {"b": "layers"}
    attention: ClassVar[tuple[str, ...]] = ("self_attention",)
    text: ClassVar[Any] = "after"
    text_arguments: ClassVar[tuple[str, ...]] = ("text_bth", "text_lens")
    rows_first: ClassVar[bool] = False
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": ("x",)}

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        expected = self.length(denoiser, argument) + argument("text_bth").shape[1]
        if count != expected:
            raise GridError(
                f"{layer} has {count} where there should be {expected} tokens: blocks of a "
                f"{type(denoiser).__name__} have tokens before rows, so they can't be perturbed "
                "there; expected another guidance than TPG, one of attention"
            )
        return super().tokens(denoiser, argument, layer, count)

    @override
    def feed_forward(self, block: nn.Module) -> nn.Module | None:
        found: nn.Module = block.get_submodule("mlp")
        return found
