"""LPIPS: the perceptual distance of two pictures, by the package `lpips`.

Zhang et al., 2018 (https://arxiv.org/abs/1801.03924), version 0.1, with the networks VGG16 and
AlexNet. The package imports torchvision and downloads the backbone's weights through it. Without
them there is the distance of `smoothed_energy.evaluation.perceptual`, which has a name of its own.
"""

from __future__ import annotations

__all__ = ["LPIPS_ALEX", "LPIPS_VGG", "lpips_alex", "lpips_vgg"]

import importlib
from typing import Any

import torch
from torch import Tensor

from .picture_metric import NetworkMetric, PairMetric


def lpips_vgg(*, device: str | torch.device = "cpu") -> PairMetric:
    """LPIPS with VGG16, at the size that pictures have.

    Args:
        device: Where it runs.

    Raises:
        ImportError: If `lpips` is not installed, or torchvision does not import.
    """
    return _metric("vgg", device)


def lpips_alex(*, device: str | torch.device = "cpu") -> PairMetric:
    """LPIPS with AlexNet, whose pictures have 31 pixels a side at least; see `lpips_vgg`."""
    return _metric("alex", device)


def _metric(backbone: str, device: str | torch.device) -> PairMetric:
    network = _network(backbone).to(device)

    @torch.inference_mode()
    def measure(pictures: Tensor, others: Tensor) -> Tensor:
        first, second = (_scaled(x.to(device)) for x in (pictures, others))
        found: Tensor = network(first, second)
        return found.flatten()

    return PairMetric(
        name=f"lpips-{backbone}",
        bounds=(0, float("inf")),
        model=f"lpips-0.1-{backbone}-as-is",
        measure=measure,
    )


def _scaled(pictures: Tensor) -> Tensor:
    """uint8 to float in ``[-1, 1]``, which the package takes if it is not told to normalise."""
    return pictures.float() / 127.5 - 1


def _network(backbone: str) -> Any:
    try:
        package = importlib.import_module("lpips")
    except Exception as error:
        # A torchvision that does not fit torch fails with a RuntimeError as it is imported.
        if not isinstance(error, (ImportError, RuntimeError, AttributeError)):
            raise
        raise ImportError(
            f"LPIPS needs lpips and a torchvision that fits torch {torch.__version__} "
            f"({str(error).splitlines()[0]}): pip install 'smoothed-energy[lpips]'; "
            "'deep-feature-distance' needs neither"
        ) from error
    return package.LPIPS(net=backbone, version="0.1", verbose=False).eval()


LPIPS_VGG = NetworkMetric("lpips-vgg", PairMetric, lpips_vgg)
LPIPS_ALEX = NetworkMetric("lpips-alex", PairMetric, lpips_alex)
