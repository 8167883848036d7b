"""The families of CogView 3 Plus and CogView 4."""

from __future__ import annotations

__all__ = ["CogView3Plus", "CogView4"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .transformer import Transformer
from .true_cfg import in_two_calls


class CogView3Plus(Transformer):
    """Text and image attend together, the text's tokens first.

    One feed-forward network serves both.
    """

    name: ClassVar[str] = "CogView 3 Plus"
    denoisers: ClassVar[tuple[str, ...]] = ("CogView3PlusTransformer2DModel",)
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    text: ClassVar[Any] = "before"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("hidden_states", "encoder_hidden_states")
    }


class CogView4(CogView3Plus):
    """The same blocks with rotary embedding, in two calls under CFG."""

    name: ClassVar[str] = "CogView 4"
    denoisers: ClassVar[tuple[str, ...]] = ("CogView4Transformer2DModel",)
    # A row for each token, where somebody gives it; the pipelines don't.
    unbatched: ClassVar[frozenset[str]] = frozenset({"image_rotary_emb"})
    tied_to_size: ClassVar[tuple[str, ...]] = ("image_rotary_emb",)

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return in_two_calls(super().layout(denoiser, setting, step))
