"""What edits layers: an older path of `smoothed_energy.guidance`."""

from __future__ import annotations

from .guidance.attention_perturbation import AttentionCall, AttentionPerturbation
from .guidance.perturbation import LayerCall, Perturbation, Probe, ValuesOnly, enclosing_block

__all__ = [
    "AttentionCall",
    "AttentionPerturbation",
    "LayerCall",
    "Perturbation",
    "Probe",
    "ValuesOnly",
    "enclosing_block",
]
