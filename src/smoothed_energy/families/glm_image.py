"""The family of GLM-Image, whose given pictures are keys computed before the first step."""

from __future__ import annotations

__all__ = ["GlmImage"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.cfg_batch import BatchLayout
from .base import Arguments, Setting, Step
from .transformer import Transformer
from .true_cfg import in_two_calls


class GlmImage(Transformer):
    """Text and image attend together, the text's tokens first, and to keys of given pictures."""

    name: ClassVar[str] = "GLM-Image"
    denoisers: ClassVar[tuple[str, ...]] = ("GlmImageTransformer2DModel",)
    why_no_text: ClassVar[str] = (
        "most of its prompt is in the tokens of a prior, one for each of the image's"
    )
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    text: ClassVar[Any] = "before"
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("hidden_states", "encoder_hidden_states")
    }
    tied_to_size: ClassVar[tuple[str, ...]] = ("prior_token_id",)

    @override
    def is_of_own_guidance(self, argument: Arguments) -> bool:
        """Calls for the keys of given pictures are no steps."""
        return _mode(argument) == "write"

    @override
    def keeps_keys(self, argument: Arguments) -> bool:
        return _mode(argument) == "read"

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        return in_two_calls(super().layout(denoiser, setting, step))

    @override
    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        return value + 1


def _mode(argument: Arguments) -> str | None:
    """What is done with the keys of given pictures."""
    caches = argument("kv_caches")
    mode: str | None = None if caches is None else caches[0].mode
    return mode
