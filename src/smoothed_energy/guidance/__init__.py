"""What guidance is: its settings, its plan for a denoiser, and how corrections are combined."""

from __future__ import annotations

from .attention_perturbation import AttentionCall, AttentionPerturbation
from .cfg_rules.interval import GuidanceInterval
from .guidance import About, Guidance
from .negative_guidance import LayerGuidance, NegativeGuidance
from .perturbation import LayerCall, Perturbation, Probe
from .plan import NegativeContext, Plan

__all__ = [
    "About",
    "AttentionCall",
    "AttentionPerturbation",
    "Guidance",
    "GuidanceInterval",
    "LayerCall",
    "LayerGuidance",
    "NegativeContext",
    "NegativeGuidance",
    "Perturbation",
    "Plan",
    "Probe",
]
