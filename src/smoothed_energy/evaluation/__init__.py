"""How well samples match a set of real images: features and distances between sets of them."""

from __future__ import annotations

from .attributes import AttributeVocabulary, NamedAttributes
from .attributes_accuracy import (
    ATTRIBUTE_ACCURACY,
    AttributeScores,
    attribute_accuracy,
    score_attributes,
)
from .attributes_classifier import AttributeClassifier
from .bootstrap import Interval, Resampling, interval, paired_interval
from .clip_features import CLIP
from .cmmd import CMMD, cmmd
from .density_coverage import COVERAGE, DENSITY, coverage, density
from .dinov2 import DINOV2
from .diversity import DIVERSITY, mean_pairwise_distance
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
from .lpips import LPIPS_ALEX, LPIPS_VGG
from .metric import METRICS, Metric, MomentsMetric, register_metric
from .perceptual import DEEP_FEATURE_DISTANCE, deep_feature_distance
from .pickscore import PICKSCORE
from .picture_metric import (
    PICTURE_METRICS,
    NetworkMetric,
    PairMetric,
    PictureMetric,
    SeedsMetric,
    TextMetric,
    open_picture_metric,
    register_picture_metric,
)
from .pictures import Pictures, pictures_in
from .precision_recall import PRECISION, RECALL, precision, recall
from .side_effects import (
    CHROMA,
    CLIPPED,
    COLOR_SHIFT,
    CONTRAST,
    SATURATION,
    SHARPNESS,
)
from .statistics import FeatureStatistics, Moments, moments
from .store import FeatureStore
from .text_metrics import CLIP_SCORE, CLIP_SIMILARITY
from .value import Value, ValueTable
from .vendi import VENDI, vendi_score

__all__ = [
    "EXTRACTORS",
    "FEATURE_SIZE",
    "METRICS",
    "PICTURE_METRICS",
    "AttributeClassifier",
    "AttributeScores",
    "AttributeVocabulary",
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
    "NamedAttributes",
    "NetworkMetric",
    "PairMetric",
    "PictureMetric",
    "Pictures",
    "Resampling",
    "Score",
    "SeedsMetric",
    "TextMetric",
    "Value",
    "ValueTable",
    "attribute_accuracy",
    "cmmd",
    "compare",
    "coverage",
    "deep_feature_distance",
    "density",
    "difference",
    "evaluate",
    "extract_features",
    "feature_set",
    "frechet_distance",
    "interval",
    "kernel_distance",
    "mean_pairwise_distance",
    "moments",
    "open_extractor",
    "open_picture_metric",
    "paired_interval",
    "pictures_in",
    "precision",
    "read_scores",
    "recall",
    "register_extractor",
    "register_metric",
    "register_picture_metric",
    "score_attributes",
    "score_value",
    "vendi_score",
    "weights_digest",
]

for _kind in (EFFICIENTNET, INCEPTION, DINOV2, CLIP):
    register_extractor(_kind)

for _metric in (FRECHET, KERNEL, CMMD, PRECISION, RECALL, DENSITY, COVERAGE, VENDI):
    register_metric(_metric)

for _picture_metric in (
    *(SATURATION, CHROMA, CONTRAST, CLIPPED, SHARPNESS, COLOR_SHIFT, DIVERSITY),
    *(CLIP_SIMILARITY, CLIP_SCORE, PICKSCORE, LPIPS_VGG, LPIPS_ALEX),
    *(DEEP_FEATURE_DISTANCE, ATTRIBUTE_ACCURACY),
):
    register_picture_metric(_picture_metric)
