"""AuraFlow."""

from __future__ import annotations

__all__ = ["AuraFlow"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from .transformer import Transformer


class AuraFlow(Transformer):
    """Image and text attend together, in two streams first and in one stream then.

    Register tokens come first, then the text's, then the image's.
    """

    name: ClassVar[str] = "AuraFlow"
    denoisers: ClassVar[tuple[str, ...]] = ("AuraFlowTransformer2DModel",)
    stacks: ClassVar[Mapping[str, str]] = {
        "b": "joint_transformer_blocks",
        "s": "single_transformer_blocks",
    }
    text: ClassVar[Any] = "before"
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "b": ("encoder_hidden_states", "hidden_states")
    }

    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        """See `Transformer.patch`."""
        config: Any = denoiser.config
        return (config.patch_size, config.patch_size)

    def timestep(
        self, denoiser: nn.Module, value: Tensor | float, scheduler: Any
    ) -> Tensor | float:
        """See `Family.timestep`."""
        return value * 1000
