r"""Saliency-adaptive noise fusion in plain loops, written from its formula.

Wang et al. 2023 (https://arxiv.org/abs/2311.10329), equations 6 to 8: of two guidances the one with
the higher saliency is taken at every place and channel, and the saliency is the softmax over space
of the blurred absolute value. The blur mirrors the picture at its edges.

Nothing of `smoothed_energy` is used here.
"""

import math
from itertools import product

import torch


def fused(one, other, sigma=1.0):
    """Everywhere the one of two guidances `(B, C, *, H, W)` that is the more salient."""
    result = torch.empty_like(one)
    for row, channel in product(range(one.shape[0]), range(one.shape[1])):
        saliencies = [_saliency(guidance[row, channel], sigma) for guidance in (one, other)]
        for place in product(*map(range, one.shape[2:])):
            first = saliencies[0][place] > saliencies[1][place]
            result[row, channel][place] = (one if first else other)[row, channel][place]
    return result


def _saliency(guidance, sigma):
    """The saliency of every place of a picture `(H, W)` or a video `(F, H, W)`."""
    height, width = guidance.shape[-2:]
    rows, columns = _weights(height, sigma), _weights(width, sigma)
    magnitudes = guidance.abs().tolist()
    powers = {}
    for *frame, y, x in product(*map(range, guidance.shape)):
        picture = magnitudes[frame[0]] if frame else magnitudes
        blurred = sum(
            a * b * picture[_mirrored(y + i, height)][_mirrored(x + j, width)]
            for i, a in rows.items()
            for j, b in columns.items()
        )
        powers[(*frame, y, x)] = math.exp(blurred)
    total = sum(powers.values())
    return {place: power / total for place, power in powers.items()}


def _weights(length, sigma):
    """The weights of a blur by distance, three sigma on both sides or as many as fit."""
    size = math.ceil(6 * sigma)
    size = min(size + 1 - size % 2, length + 1 - length % 2)
    weights = {x: math.exp(-0.5 * (x / sigma) ** 2) for x in range(-(size // 2), size // 2 + 1)}
    return {x: weight / sum(weights.values()) for x, weight in weights.items()}


def _mirrored(place, length):
    """Where a place beyond the edge is seen in a mirror on the edge."""
    if place < 0:
        return -1 - place
    return 2 * length - 1 - place if place >= length else place
