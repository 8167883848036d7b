"""How well samples match a set of real images: features and distances between sets of them."""

from .features import FEATURE_SIZE, FeatureExtractor, extract_features
from .frechet import Moments, frechet_distance, moments
from .kernel import kernel_distance

__all__ = [
    "FEATURE_SIZE",
    "FeatureExtractor",
    "Moments",
    "extract_features",
    "frechet_distance",
    "kernel_distance",
    "moments",
]
