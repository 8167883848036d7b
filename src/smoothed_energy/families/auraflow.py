"""The family of AuraFlow."""

from __future__ import annotations

__all__ = ["AuraFlow"]

from collections.abc import Mapping
from typing import Any, ClassVar

from .transformer import Transformer


class AuraFlow(Transformer):
    """Image and text attend together, in two streams first and in one stream then.

    Register tokens come first, then the text's, then the image's.
    """

    name: ClassVar[str] = "AuraFlow"
    denoisers: ClassVar[tuple[str, ...]] = ("AuraFlowTransformer2DModel",)
    time_factor: ClassVar[float] = 1000.0
    stacks: ClassVar[Mapping[str, str]] = {
        "b": "joint_transformer_blocks",
        "s": "single_transformer_blocks",
    }
    text: ClassVar[Any] = "before"
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("encoder_hidden_states", "hidden_states")
    }
