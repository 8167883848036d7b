"""A self-attention layer of a denoiser."""

from __future__ import annotations

__all__ = ["PARTS", "LayerError", "SelfAttentionLayer"]

from dataclasses import dataclass, field

from torch import nn

#: The parts of every denoiser, in the order in which they run.
PARTS = ("down", "mid", "up")


class LayerError(ValueError):
    """A selection of layers that does not exist, or a denoiser without layers to select."""


@dataclass(frozen=True)
class SelfAttentionLayer:
    """One self-attention layer of a denoiser.

    Layers are counted in stacks, each of which has a letter: ``d``, ``m`` and ``u`` are the paths
    down, through the middle, and up of a U-Net; ``b`` are the blocks of a transformer.

    Attributes:
        name: Its module name, such as ``"mid_block.attentions.0.transformer_blocks.0.attn1"``.
        part: The part of the denoiser it is in: ``"down"``, ``"mid"``, ``"up"``, or a name of the
            family's own.
        letter: The letter of its stack.
        index: Its number among the self-attention layers of the stack.
        block: The number of its transformer (in a U-Net) or block among those of the stack.
        position: Its number in that.
        heads: The number of attention heads.
        width: The number of channels of the queries, all heads together.
        module: The attention module itself. Two layers are equal if all else is.
        softmax: Whether it computes softmax(QK^T)V. Linear attention does not.
    """

    name: str
    part: str
    letter: str
    index: int
    block: int
    position: int
    heads: int
    width: int
    module: nn.Module = field(compare=False, repr=False)
    softmax: bool = True

    @property
    def code(self) -> str:
        """The plain code, such as ``d5``."""
        return f"{self.letter}{self.index}"

    @property
    def dotted(self) -> str:
        """The dotted code, such as ``d2.1``."""
        return f"{self.letter}{self.block}.{self.position}"
