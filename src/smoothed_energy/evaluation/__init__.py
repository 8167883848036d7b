"""How well samples match a set of real images: features and distances between sets of them."""

from __future__ import annotations

from .bootstrap import Interval, Resampling, interval, paired_interval
from .clip_features import CLIP
from .cmmd import CMMD, cmmd
from .density_coverage import COVERAGE, DENSITY, coverage, density
from .dinov2 import DINOV2
from .evaluate import compare, difference, evaluate
from .extractor import (
    EXTRACTORS,
    Extractor,
    ExtractorKind,
    open_extractor,
    register_extractor,
    weights_digest,
)
from .feature_set import FeatureSet, feature_set
from .features import EFFICIENTNET, FEATURE_SIZE, FeatureExtractor, extract_features
from .frechet import FRECHET, FrechetReference, frechet_distance
from .handover import Score, read_scores, score_value
from .inception import INCEPTION
from .kernel import KERNEL, kernel_distance
from .metric import METRICS, Metric, MomentsMetric, register_metric
from .pictures import Pictures, pictures_in
from .precision_recall import PRECISION, RECALL, precision, recall
from .statistics import FeatureStatistics, Moments, moments
from .store import FeatureStore
from .value import Value, ValueTable
from .vendi import VENDI, vendi_score

__all__ = [
    "EXTRACTORS",
    "FEATURE_SIZE",
    "METRICS",
    "Extractor",
    "ExtractorKind",
    "FeatureExtractor",
    "FeatureSet",
    "FeatureStatistics",
    "FeatureStore",
    "FrechetReference",
    "Interval",
    "Metric",
    "Moments",
    "MomentsMetric",
    "Pictures",
    "Resampling",
    "Score",
    "Value",
    "ValueTable",
    "cmmd",
    "compare",
    "coverage",
    "density",
    "difference",
    "evaluate",
    "extract_features",
    "feature_set",
    "frechet_distance",
    "interval",
    "kernel_distance",
    "moments",
    "open_extractor",
    "paired_interval",
    "pictures_in",
    "precision",
    "read_scores",
    "recall",
    "register_extractor",
    "register_metric",
    "score_value",
    "vendi_score",
    "weights_digest",
]

for _kind in (EFFICIENTNET, INCEPTION, DINOV2, CLIP):
    register_extractor(_kind)

for _metric in (FRECHET, KERNEL, CMMD, PRECISION, RECALL, DENSITY, COVERAGE, VENDI):
    register_metric(_metric)
