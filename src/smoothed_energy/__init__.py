"""Training-free guidance of diffusion models by smoothing the energy of self-attention."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.finite import NonFiniteError
    from .engine.summary import GuidanceWarning, RunSummary
    from .guidance import (
        AdaptiveProjectedGuidance,
        FrequencyDecoupledGuidance,
        Guidance,
        GuidanceInterval,
        MagnitudeAwareGuidance,
        PlusPlusGuidance,
        TangentialDampingGuidance,
        ZeroStarGuidance,
    )
    from .integrations.attach import attachments, detach_all
    from .integrations.attachment import Attachment
    from .methods import (
        Autoguidance,
        EntropyRectifyingGuidance,
        HistoryGuidedSampling,
        MomentumGuidance,
        NormalizedAttentionGuidance,
        PerturbedAttentionGuidance,
        SelfAttentionGuidance,
        SelfGuidance,
        SkipLayerGuidance,
        SlidingWindowGuidance,
        SmoothedEnergyGuidance,
        SparseTextAttention,
        StochasticSelfGuidance,
        TangentialAmplifyingGuidance,
        TimeStepGuidance,
        TokenPerturbationGuidance,
        guidance_from_dict,
        guidance_from_text,
    )
    from .schedule import (
        Adaptive,
        CosineScale,
        EveryNth,
        LinearScale,
        NoiseLevels,
        ScaleTable,
        StepPosition,
        Steps,
    )
    from .smoothing import BoxBlur, Compose, EMASmoothing, GaussianBlur, Smoothing

__version__ = "0.1.0"

__all__ = [
    "Adaptive",
    "AdaptiveProjectedGuidance",
    "Attachment",
    "Autoguidance",
    "BoxBlur",
    "Compose",
    "CosineScale",
    "EMASmoothing",
    "EntropyRectifyingGuidance",
    "EveryNth",
    "FrequencyDecoupledGuidance",
    "GaussianBlur",
    "Guidance",
    "GuidanceInterval",
    "GuidanceWarning",
    "HistoryGuidedSampling",
    "LinearScale",
    "MagnitudeAwareGuidance",
    "MomentumGuidance",
    "NoiseLevels",
    "NonFiniteError",
    "NormalizedAttentionGuidance",
    "PerturbedAttentionGuidance",
    "PlusPlusGuidance",
    "RunSummary",
    "ScaleTable",
    "SelfAttentionGuidance",
    "SelfGuidance",
    "SkipLayerGuidance",
    "SlidingWindowGuidance",
    "SmoothedEnergyGuidance",
    "Smoothing",
    "SparseTextAttention",
    "StepPosition",
    "Steps",
    "StochasticSelfGuidance",
    "TangentialAmplifyingGuidance",
    "TangentialDampingGuidance",
    "TimeStepGuidance",
    "TokenPerturbationGuidance",
    "ZeroStarGuidance",
    "attachments",
    "detach_all",
    "guidance_from_dict",
    "guidance_from_text",
]

_HOME_OF = {
    "Attachment": "integrations.attachment",
    "attachments": "integrations.attach",
    "detach_all": "integrations.attach",
    "GuidanceWarning": "engine.summary",
    "NonFiniteError": "engine.finite",
    "RunSummary": "engine.summary",
    "Guidance": "guidance",
    "GuidanceInterval": "guidance",
    "AdaptiveProjectedGuidance": "guidance",
    "FrequencyDecoupledGuidance": "guidance",
    "MagnitudeAwareGuidance": "guidance",
    "PlusPlusGuidance": "guidance",
    "TangentialDampingGuidance": "guidance",
    "ZeroStarGuidance": "guidance",
    "EntropyRectifyingGuidance": "methods",
    "HistoryGuidedSampling": "methods",
    "TangentialAmplifyingGuidance": "methods",
    "PerturbedAttentionGuidance": "methods",
    "SelfAttentionGuidance": "methods",
    "Autoguidance": "methods",
    "MomentumGuidance": "methods",
    "NormalizedAttentionGuidance": "methods",
    "SkipLayerGuidance": "methods",
    "SlidingWindowGuidance": "methods",
    "SmoothedEnergyGuidance": "methods",
    "SelfGuidance": "methods",
    "TimeStepGuidance": "methods",
    "SparseTextAttention": "methods",
    "StochasticSelfGuidance": "methods",
    "TokenPerturbationGuidance": "methods",
    "guidance_from_dict": "methods",
    "guidance_from_text": "methods",
    "CosineScale": "schedule",
    "LinearScale": "schedule",
    "ScaleTable": "schedule",
    "BoxBlur": "smoothing",
    "Compose": "smoothing",
    "EMASmoothing": "smoothing",
    "GaussianBlur": "smoothing",
    "Smoothing": "smoothing",
    "Adaptive": "schedule",
    "EveryNth": "schedule",
    "NoiseLevels": "schedule",
    "StepPosition": "schedule",
    "Steps": "schedule",
}


def __getattr__(name: str) -> Any:
    # Names are imported when they are first used: the command line must answer before torch loads.
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
