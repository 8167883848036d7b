"""The family of PRX, in latents and in pixels."""

from __future__ import annotations

__all__ = ["PRX"]

from collections.abc import Mapping
from typing import ClassVar

from torch import nn
from typing_extensions import override

from .transformer import Transformer


class PRX(Transformer):
    """The image's tokens attend to the text's and to themselves; the text's ask nothing."""

    name: ClassVar[str] = "PRX"
    denoisers: ClassVar[tuple[str, ...]] = ("PRXTransformer2DModel",)
    scale_of_call: ClassVar[bool] = True
    time_factor: ClassVar[float] = 1000.0
    stacks: ClassVar[Mapping[str, str]] = {"b": "blocks"}
    attention: ClassVar[tuple[str, ...]] = ("attention",)
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "attention_mask"}

    @override
    def attends_beside_text(self, denoiser: nn.Module) -> bool:
        """The text is among the keys."""
        return True
