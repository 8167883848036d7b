"""Training-free guidance of diffusion models by smoothing the energy of self-attention."""

from .attachment import Attachment, GuidanceWarning, RunSummary
from .guidance import Guidance, SmoothedEnergyGuidance
from .smoothing import BoxBlur, Compose, EMASmoothing, GaussianBlur, Smoothing
from .steps import EveryNth, NoiseLevels, Steps

__all__ = [
    "Attachment",
    "BoxBlur",
    "Compose",
    "EMASmoothing",
    "EveryNth",
    "GaussianBlur",
    "Guidance",
    "GuidanceWarning",
    "NoiseLevels",
    "RunSummary",
    "SmoothedEnergyGuidance",
    "Smoothing",
    "Steps",
]

__version__ = "0.1.0"
