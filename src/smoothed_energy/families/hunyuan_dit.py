"""HunyuanDiT."""

from __future__ import annotations

__all__ = ["HunyuanDiT"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from .transformer import Transformer


class HunyuanDiT(Transformer):
    """Self-attention of the image's tokens with rotary embedding, and cross-attention to the text.

    Blocks of the second half also get what blocks of the first half gave, as in a U-Net.
    """

    name: ClassVar[str] = "HunyuanDiT"
    denoisers: ClassVar[tuple[str, ...]] = ("HunyuanDiT2DModel",)
    stacks: ClassVar[Mapping[str, str]] = {"b": "blocks"}
    attention: ClassVar[tuple[str, ...]] = ("attn1",)
    # A row for each token, and there may be as many of them as samples.
    unbatched: ClassVar[frozenset[str]] = frozenset({"image_rotary_emb"})
    tied_to_size: ClassVar[tuple[str, ...]] = ("image_rotary_emb", "controlnet_block_samples")

    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        """See `Transformer.patch`."""
        config: Any = denoiser.config
        return (config.patch_size, config.patch_size)

    def has_learned_variance(self, denoiser: nn.Module) -> bool:
        """See `Family.has_learned_variance`."""
        config: Any = denoiser.config
        return bool(config.learn_sigma)
