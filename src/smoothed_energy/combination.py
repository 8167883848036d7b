"""How corrections are combined: an older path of `smoothed_energy.guidance.combine`."""

from __future__ import annotations

from .guidance.combinations import Projection, Rescale
from .guidance.combine import Combination
from .guidance.combine_text import as_combinations, combinations_text
from .guidance.saliency_fusion import SaliencyFusion

__all__ = [
    "Combination",
    "Projection",
    "Rescale",
    "SaliencyFusion",
    "as_combinations",
    "combinations_text",
]
