"""Features of the Inception network that FID is defined by.

The 2048 features of the last pooling of Inception v3, in the TensorFlow graph of 2015 with its
weights (Heusel et al., 2017, https://arxiv.org/abs/1706.08500), by the port of it in
`torch-fidelity`. Pictures are resized to 299 x 299 inside of it, bilinearly as TensorFlow 1 did:
without antialiasing or the offset of half a pixel. Later libraries resize otherwise and get other
numbers; published FIDs are of this resize. `torch-fidelity` imports torchvision, whose version must
fit torch's.
"""

from __future__ import annotations

__all__ = ["INCEPTION", "InceptionExtractor"]

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .extractor import Extractor, ExtractorKind, checked_pictures, weights_digest

_FEATURES = "2048"


class InceptionExtractor:
    """The last pooling of Inception v3.

    Args:
        weights: A file of weights for `torch-fidelity`; None downloads those of FID.
        device: Where the network runs.

    Raises:
        ImportError: If `torch-fidelity` or torchvision is missing, or does not fit.
        ValueError: If the weights can't be read, or not be had.
    """

    name = "inception-v3-299-bilinear-tf1"
    feature_size = 2048

    def __init__(self, weights: str | None = None, device: str | torch.device = "cpu") -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import (  # noqa: PLC0415 - an extra
                FeatureExtractorInceptionV3,
            )
        # A torchvision of another torch fails with any of these when it is imported.
        except (ImportError, RuntimeError, AttributeError, OSError) as error:
            raise ImportError(
                "Inception features need torch-fidelity and a torchvision that fits torch "
                f"{torch.__version__}: pip install 'smoothed-energy[inception]' ({error})"
            ) from error
        if weights is not None and not Path(weights).is_file():
            raise ValueError(f"inception: {weights} is no file of weights")
        self.device = torch.device(device)
        try:
            if weights is not None:
                # The package's own loader unpickles without restriction; weights are plain tensors.
                torch.load(weights, map_location="cpu", weights_only=True)
            # It reports its download on standard output.
            with contextlib.redirect_stdout(sys.stderr):
                network: Any = FeatureExtractorInceptionV3(
                    "inception-v3-compat", [_FEATURES], feature_extractor_weights_path=weights
                )
        except Exception as error:
            where = "could not be downloaded" if weights is None else f"{weights} do not fit"
            raise ValueError(f"inception: the weights {where}: {error}") from error
        self.digest = weights_digest(network)
        self._network = network.to(self.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor, /) -> Tensor:
        """Features `(B, 2048)` float32, on the CPU, of RGB pictures `(B, 3, H, W)` uint8."""
        (features,) = self._network(checked_pictures(images).to(self.device))
        return torch.as_tensor(features).float().cpu()


def _open(source: str | None, device: str | torch.device) -> Extractor:
    return InceptionExtractor(source, device)


#: Inception v3, whose Frechet distance is the FID.
INCEPTION = ExtractorKind(
    "inception",
    _open,
    "a file of weights for torch-fidelity (default: those of FID, downloaded)",
    "torch-fidelity and torchvision: pip install 'smoothed-energy[inception]'",
)
