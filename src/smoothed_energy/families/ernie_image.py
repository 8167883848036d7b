"""The family of ERNIE-Image, whose blocks have tokens before rows."""

from __future__ import annotations

__all__ = ["ErnieImage"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.image_tokens import GridError, ImageTokens
from ..intercept.module_call import Rows
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
    def repeat_rows(
        self, arguments: dict[str, Any], rows: Rows, text: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Texts are filled up to one length: their own are told."""
        name = "text_bth"
        if name not in text:
            return super().repeat_rows(arguments, rows, text)
        length = max(arguments[name].shape[1], text[name].shape[1])
        return super().repeat_rows(
            {**arguments, name: _filled(arguments[name], length)},
            rows,
            {**text, name: _filled(text[name], length)},
        )

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


def _filled(text: Tensor, length: int) -> Tensor:
    """A text `(B, L, C)` with zeros after its tokens."""
    return nn.functional.pad(text, (0, 0, 0, length - text.shape[1]))
