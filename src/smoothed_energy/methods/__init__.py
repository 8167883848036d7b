"""The guidance methods, each a module of its own."""

from __future__ import annotations

from .autoguidance import Autoguidance
from .erg import EntropyRectifyingGuidance
from .higs import HistoryGuidedSampling
from .momentum import MomentumGuidance
from .nag import NormalizedAttentionGuidance
from .pag import PerturbedAttentionGuidance
from .pladis import SparseTextAttention
from .registry import (
    METHODS,
    as_guidances,
    guidance_from_dict,
    guidance_from_text,
    guidance_to_text,
    register,
)
from .s2 import StochasticSelfGuidance
from .sag import SelfAttentionGuidance
from .seg import SmoothedEnergyGuidance
from .self_guidance import SelfGuidance
from .slg import SkipLayerGuidance
from .swg import SlidingWindowGuidance
from .tag import TangentialAmplifyingGuidance
from .tpg import TokenPerturbationGuidance
from .tsg import TimeStepGuidance

__all__ = [
    "METHODS",
    "Autoguidance",
    "EntropyRectifyingGuidance",
    "HistoryGuidedSampling",
    "MomentumGuidance",
    "NormalizedAttentionGuidance",
    "PerturbedAttentionGuidance",
    "SelfAttentionGuidance",
    "SelfGuidance",
    "SkipLayerGuidance",
    "SlidingWindowGuidance",
    "SmoothedEnergyGuidance",
    "SparseTextAttention",
    "StochasticSelfGuidance",
    "TangentialAmplifyingGuidance",
    "TimeStepGuidance",
    "TokenPerturbationGuidance",
    "as_guidances",
    "guidance_from_dict",
    "guidance_from_text",
    "guidance_to_text",
    "register",
]
