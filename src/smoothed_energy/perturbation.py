"""What edits layers: an older path of `smoothed_energy.guidance`."""

from __future__ import annotations

from .guidance import AttentionCall, AttentionPerturbation, LayerCall, Perturbation, Probe

__all__ = ["AttentionCall", "AttentionPerturbation", "LayerCall", "Perturbation", "Probe"]
