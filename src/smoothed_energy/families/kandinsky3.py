"""The family of Kandinsky 3."""

from __future__ import annotations

__all__ = ["Kandinsky3"]

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from .base import Setting, Step
from .feature_maps import FeatureMaps


class Kandinsky3(FeatureMaps):
    """One self-attention at every level but the first, on the path down and on the path up."""

    name: ClassVar[str] = "Kandinsky 3"
    denoisers: ClassVar[tuple[str, ...]] = ("Kandinsky3UNet",)
    scale_of_call: ClassVar[bool] = True
    text_arguments: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    text_masks: ClassVar[Mapping[str, str]] = {"encoder_hidden_states": "encoder_attention_mask"}

    @override
    def attends(self, block: Any, name: str) -> bool:
        # The others attend to the text.
        return name.endswith(".attentions.0")

    @override
    def cross_attentions(
        self, denoiser: nn.Module, layers: Sequence[SelfAttentionLayer]
    ) -> dict[nn.Module, str]:
        """Those of the same level and path, of which there are several."""
        found: dict[nn.Module, str] = {}
        for layer in layers:
            level, _, _ = layer.name.rpartition(".0.attention")
            others: Any = denoiser.get_submodule(level)
            found |= {
                other.attention: layer.name for other in others[1:] if hasattr(other, "attention")
            }
        return found

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """CFG is c + s (c - u)."""
        layout = super().layout(denoiser, setting, step)
        if layout.cfg_scale is None:
            return layout
        return replace(layout, cfg_scale=1.0 + layout.cfg_scale)
