"""Smoothing of queries and keys: linear operators over the tokens of a picture or a video."""

from __future__ import annotations

from .axis_matrices import PADDINGS
from .cache import cache_info, clear_cache
from .moving_average import RAMPS, EMASmoothing
from .operator import Compose, Smoothing, as_smoothing
from .separable import BoxBlur, GaussianBlur

__all__ = [
    "PADDINGS",
    "RAMPS",
    "BoxBlur",
    "Compose",
    "EMASmoothing",
    "GaussianBlur",
    "Smoothing",
    "as_smoothing",
    "cache_info",
    "clear_cache",
]
