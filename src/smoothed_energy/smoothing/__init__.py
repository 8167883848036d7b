"""Smoothing operators: linear maps over the tokens of an image's or a video's grid."""

from __future__ import annotations

from .operator import (
    PADDINGS,
    RAMPS,
    BoxBlur,
    Compose,
    EMASmoothing,
    GaussianBlur,
    Smoothing,
    as_smoothing,
    cache_info,
    clear_cache,
)

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
