"""What guidance is: its settings, its plan for a denoiser, and how corrections are combined."""

from __future__ import annotations

from .alteration import Alteration, AlteredRows
from .attention_perturbation import AttentionCall, AttentionPerturbation
from .cfg_rules.apg import AdaptiveProjectedGuidance
from .cfg_rules.frequency import FrequencyDecoupledGuidance
from .cfg_rules.interval import GuidanceInterval
from .cfg_rules.magnitude import MagnitudeAwareGuidance
from .cfg_rules.plus_plus import PlusPlusGuidance
from .cfg_rules.rule import SumRule
from .cfg_rules.tangential import TangentialDampingGuidance
from .cfg_rules.zero_star import ZeroStarGuidance
from .guidance import About, Guidance
from .negative_guidance import LayerGuidance, NegativeGuidance
from .pass_guidance import PassGuidance
from .perturbation import LayerCall, Perturbation, Probe
from .plan import NegativeContext, Plan
from .result_guidance import ResultGuidance, ResultStep

__all__ = [
    "About",
    "AdaptiveProjectedGuidance",
    "Alteration",
    "AlteredRows",
    "AttentionCall",
    "AttentionPerturbation",
    "FrequencyDecoupledGuidance",
    "Guidance",
    "GuidanceInterval",
    "LayerCall",
    "LayerGuidance",
    "MagnitudeAwareGuidance",
    "NegativeContext",
    "NegativeGuidance",
    "PassGuidance",
    "Perturbation",
    "Plan",
    "PlusPlusGuidance",
    "Probe",
    "ResultGuidance",
    "ResultStep",
    "SumRule",
    "TangentialDampingGuidance",
    "ZeroStarGuidance",
]
