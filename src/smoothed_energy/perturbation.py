"""What a pass edits or observes inside the chosen layers. An older path of `smoothed_energy.guidance`."""

from __future__ import annotations

from .guidance import AttentionCall, AttentionPerturbation, LayerCall, Perturbation, Probe

__all__ = ["AttentionCall", "AttentionPerturbation", "LayerCall", "Perturbation", "Probe"]
