"""How well samples match a set of real images: features and distances between sets of them."""

from __future__ import annotations

from .features import FEATURE_SIZE, FeatureExtractor, extract_features
from .frechet import FRECHET, Moments, frechet_distance, moments
from .kernel import KERNEL, kernel_distance
from .metric import METRICS, Metric, register_metric

__all__ = [
    "FEATURE_SIZE",
    "METRICS",
    "FeatureExtractor",
    "Metric",
    "Moments",
    "extract_features",
    "frechet_distance",
    "kernel_distance",
    "moments",
    "register_metric",
]

for _metric in (FRECHET, KERNEL):
    register_metric(_metric)
