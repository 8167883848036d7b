"""How well samples match a set of real images: features and distances between sets of them."""

from __future__ import annotations

from .cmmd import CMMD, cmmd
from .density_coverage import COVERAGE, DENSITY, coverage, density
from .features import FEATURE_SIZE, FeatureExtractor, extract_features
from .frechet import FRECHET, FrechetReference, frechet_distance
from .kernel import KERNEL, kernel_distance
from .metric import METRICS, Metric, MomentsMetric, register_metric
from .precision_recall import PRECISION, RECALL, precision, recall
from .statistics import FeatureStatistics, Moments, moments
from .vendi import VENDI, vendi_score

__all__ = [
    "FEATURE_SIZE",
    "METRICS",
    "FeatureExtractor",
    "FeatureStatistics",
    "FrechetReference",
    "Metric",
    "Moments",
    "MomentsMetric",
    "cmmd",
    "coverage",
    "density",
    "extract_features",
    "frechet_distance",
    "kernel_distance",
    "moments",
    "precision",
    "recall",
    "register_metric",
    "vendi_score",
]

for _metric in (FRECHET, KERNEL, CMMD, PRECISION, RECALL, DENSITY, COVERAGE, VENDI):
    register_metric(_metric)
