"""The family of Sana-WM, which draws videos along the path of a camera."""

from __future__ import annotations

__all__ = ["SanaWM"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import PARTS, SelfAttentionLayer
from .transformer import Transformer


class SanaWM(Transformer):
    """Some blocks have softmax attention of the video's tokens (``b``), the others a recurrence.

    The latter (``r``) are the part ``"recurrent"``; ``"down"``, ``"mid"`` and ``"up"`` are thirds
    of the former. A layer attends twice, at the places of tokens and along the rays of the camera;
    both are its self-attention. The first frame is given, and told a time of its own.
    """

    name: ClassVar[str] = "Sana-WM"
    denoisers: ClassVar[tuple[str, ...]] = ("SanaWMTransformer3DModel",)
    parts: ClassVar[tuple[str, ...]] = (*PARTS, "recurrent")
    stacks: ClassVar[Mapping[str, str]] = {"b": "blocks"}
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": ("x",), "r": ("x",)}
    cross: ClassVar[str | None] = "cross_attn"
    cross_inputs: ClassVar[tuple[str, ...]] = ("cond", "mask")
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "mask")
    tied_to_size: ClassVar[tuple[str, ...]] = ("camera_conditions", "chunk_plucker")

    @override
    def layers(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        config: Any = denoiser.config
        every = config.softmax_every_n
        found = super().layers(denoiser)
        attending = len(found) // every if every > 0 else 0
        placed: list[SelfAttentionLayer] = []
        for layer in found:
            before = layer.block // every if attending else 0
            if attending and (layer.block + 1) % every == 0:
                part = PARTS[before * len(PARTS) // attending]
                placed.append(replace(layer, part=part, index=before))
            else:
                index = layer.block - before
                placed.append(
                    replace(layer, letter="r", part="recurrent", index=index, softmax=False)
                )
        return tuple(placed)

    @override
    def feed_forward(self, block: nn.Module) -> nn.Module | None:
        return getattr(block, "mlp", None)
