"""Choices of layers: an older path of `smoothed_energy.families.layer_selection`."""

from __future__ import annotations

from .denoisers.attention_layer import LayerError, SelfAttentionLayer
from .families.layer_selection import (
    LayerSelection,
    normalise_selection,
    select_layers,
    self_attention_layers,
)

__all__ = [
    "LayerError",
    "LayerSelection",
    "SelfAttentionLayer",
    "normalise_selection",
    "select_layers",
    "self_attention_layers",
]
