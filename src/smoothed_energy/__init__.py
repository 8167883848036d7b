"""Training-free guidance of diffusion models by smoothing the energy of self-attention."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attachment import Attachment, GuidanceWarning, RunSummary
    from .guidance import Guidance
    from .methods import SmoothedEnergyGuidance
    from .smoothing import BoxBlur, Compose, EMASmoothing, GaussianBlur, Smoothing
    from .steps import EveryNth, NoiseLevels, StepPosition, Steps

__version__ = "0.1.0"

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
    "StepPosition",
    "Steps",
]

_HOME_OF = {
    "Attachment": "attachment",
    "GuidanceWarning": "attachment",
    "RunSummary": "attachment",
    "Guidance": "guidance",
    "SmoothedEnergyGuidance": "methods",
    "BoxBlur": "smoothing",
    "Compose": "smoothing",
    "EMASmoothing": "smoothing",
    "GaussianBlur": "smoothing",
    "Smoothing": "smoothing",
    "EveryNth": "steps",
    "NoiseLevels": "steps",
    "StepPosition": "steps",
    "Steps": "steps",
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
