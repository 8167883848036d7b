"""The family of ACE-Step, which makes music."""

from __future__ import annotations

__all__ = ["AceStep"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from .audio import Audio


class AceStep(Audio):
    """Self-attention over time: in windows of neighbours in one block, whole in the next."""

    name: ClassVar[str] = "ACE-Step"
    tells_timesteps: ClassVar[bool] = False
    denoisers: ClassVar[tuple[str, ...]] = ("AceStepTransformer1DModel",)
    channels_last: ClassVar[bool] = True
    stacks: ClassVar[Mapping[str, str]] = {"b": "layers"}
    attention: ClassVar[tuple[str, ...]] = ("self_attn",)
    cross: ClassVar[str | None] = "cross_attn"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}
    tied_to_size: ClassVar[tuple[str, ...]] = ("context_latents",)

    @override
    def feed_forward(self, block: nn.Module) -> nn.Module | None:
        found: Any = getattr(block, "mlp", None)
        return found if isinstance(found, nn.Module) else None
