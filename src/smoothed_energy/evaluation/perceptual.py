r"""Deep-feature distance of two pictures: LPIPS's idea, uncalibrated, with a network at hand.

Activations :math:`f_l` of EfficientNet-Lite0 at five depths, each of unit length over the channels
at every place:

.. math:: d = \frac{1}{5} \sum_l \frac{1}{H_l W_l} \sum_{h, w} | f_l - f'_l |^2

It is the baseline without learned weights of Zhang et al., 2018 (https://arxiv.org/abs/1801.03924;
they add the depths up). Its values do not compare with those of LPIPS, and it has another name.
"""

from __future__ import annotations

__all__ = ["DEEP_FEATURE_DISTANCE", "deep_feature_distance"]

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .features import load_network
from .picture_metric import NetworkMetric, PairMetric

#: The last of EfficientNet-Lite0's 16 blocks at each stride: 2, 4, 8, 16 and 32.
_DEPTHS = (0, 2, 4, 10, 15)


def deep_feature_distance(
    *, input_size: int = 224, device: str | torch.device = "cpu"
) -> PairMetric:
    """The deep-feature distance, in ``[0, 4]``: 0 for equal pictures, and symmetric.

    Args:
        input_size: Pixels a side that pictures are resized to, as for the network's features.
            Values compare only at one size.
        device: Where it runs.

    Raises:
        ValueError: If the network can't take the size.
        ImportError: If the network's packages are not installed.
    """
    if input_size < 32 or input_size % 32:
        raise ValueError(f"input_size is {input_size}; expected a positive multiple of 32")
    network: Any = load_network().to(device)

    def activations(pictures: Tensor) -> Iterator[Tensor]:
        x = pictures.to(device).float() / 255
        if tuple(x.shape[-2:]) != (input_size, input_size):
            size = (input_size, input_size)
            x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
        # As in training: (x - 127) / 128 of bytes.
        x = (x.clamp(0, 1) * 255 - 127) / 128
        x = F.relu6(network._bn0(network._conv_stem(x)))
        for depth, block in enumerate(network._blocks):
            x = block(x)
            if depth in _DEPTHS:
                yield F.normalize(x.double(), dim=1)

    @torch.inference_mode()
    def measure(pictures: Tensor, others: Tensor) -> Tensor:
        total = torch.zeros(len(pictures), dtype=torch.float64, device=device)
        for first, second in zip(activations(pictures), activations(others), strict=True):
            total += (first - second).square().sum(1).mean((1, 2))
        return total / len(_DEPTHS)

    return PairMetric(
        name="deep-feature-distance",
        bounds=(0, 4),
        model=f"efficientnet-lite0-{input_size}-bicubic",
        measure=measure,
    )


DEEP_FEATURE_DISTANCE = NetworkMetric("deep-feature-distance", PairMetric, deep_feature_distance)
