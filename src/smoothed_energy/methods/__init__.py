"""The guidance methods, each a module of its own."""

from __future__ import annotations

from .pag import PerturbedAttentionGuidance
from .seg import SmoothedEnergyGuidance

__all__ = ["PerturbedAttentionGuidance", "SmoothedEnergyGuidance"]
