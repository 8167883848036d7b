"""The family of EasyAnimate."""

from __future__ import annotations

__all__ = ["EasyAnimate"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from .transformer import Transformer


class EasyAnimate(Transformer):
    """Text and video attend together, the text's tokens first."""

    name: ClassVar[str] = "EasyAnimate"
    denoisers: ClassVar[tuple[str, ...]] = ("EasyAnimateTransformer3DModel",)
    scale_of_call: ClassVar[bool] = True
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    text: ClassVar[Any] = "before"
    text_arguments: ClassVar[tuple[str, ...]] = (
        "encoder_hidden_states",
        "encoder_hidden_states_t5",
    )
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("hidden_states", "encoder_hidden_states")
    }
    tied_to_size: ClassVar[tuple[str, ...]] = ("inpaint_latents", "control_latents")

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        config: Any = denoiser.config
        return (1, config.patch_size, config.patch_size)
