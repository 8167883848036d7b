"""Metrics of maps in numpy and scipy, one map at a time. Nothing of `smoothed_energy` is used."""

import math

import numpy as np
from scipy import ndimage, stats

LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])


def inner(response):
    return response[1:-1, 1:-1]


def frobenius(x):
    return math.sqrt((x**2).sum())


def laplacian_variance(x):
    return float(np.var(inner(ndimage.correlate(x, LAPLACE, mode="constant"))))


def gradient_entropy(x, bins=32):
    magnitude = np.hypot(inner(ndimage.sobel(x, axis=0)), inner(ndimage.sobel(x, axis=1))).ravel()
    if magnitude.max() == 0:
        return 0.0
    counts, _ = np.histogram(magnitude, bins=bins, range=(0, magnitude.max()))
    return float(stats.entropy(counts))


FORMULAS = {
    "frobenius_norm": frobenius,
    "laplacian_variance": laplacian_variance,
    "gradient_entropy": gradient_entropy,
}


def of_maps(name, maps):
    """The mean over maps `(B, M, H, W)`, for each sample."""
    maps = np.asarray(maps, dtype=np.float64)
    return np.array([np.mean([FORMULAS[name](x) for x in sample]) for sample in maps])
