"""Features of DINOv2, the network of FD-DINOv2.

Stein et al., "Exposing flaws of generative model evaluation metrics", NeurIPS 2023
(https://arxiv.org/abs/2306.04675), take the class token of ViT-L/14 behind the last normalisation,
for pictures that PIL squeezes to 224 x 224 with its bicubic filter (`dgm-eval`'s default). The same
is computed here by `transformers`. Only that network at that resize gives the name FD-DINOv2.

The positions are laid on 16 x 16 patches as the original code does it, which scales by
(16 + 0.1) / 37 where `transformers` scales to the size, which gives slightly other features.
"""

from __future__ import annotations

__all__ = ["DINOV2", "Dinov2Extractor"]

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .extractor import Extractor, ExtractorKind, checked_pictures, weights_digest
from .pil_resize import resize_bicubic
from .pretrained import load_pretrained

_HUB = "facebook/dinov2-large"
_SIZE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What the authors add to the number of patches, so that its floor is not one too small.
_OFFSET = 0.1

# Their names for widths and depths.
_SIZES = {(384, 12): "vits", (768, 12): "vitb", (1024, 24): "vitl", (1536, 40): "vitg"}


class Dinov2Extractor:
    """The class token of a DINOv2 network.

    Args:
        source: A folder, or an id of the Hugging Face hub.
        device: Where the network runs.

    Raises:
        ImportError: If `transformers` has no DINOv2.
        ValueError: If the source has none, or a network for patches of another kind.
    """

    def __init__(self, source: str = _HUB, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        network: Any = load_pretrained("Dinov2Model", source)
        config = network.config
        if _SIZE % config.patch_size:
            raise ValueError(
                f"{source} has patches of {config.patch_size} pixels; expected a divisor of {_SIZE}"
            )
        self.digest = weights_digest(network)
        self.feature_size: int = config.hidden_size
        depth = (config.hidden_size, config.num_hidden_layers)
        form = _SIZES.get(depth, "vit{}x{}-".format(*depth))
        self.name = f"dinov2-{form}{config.patch_size}-{_SIZE}-pil-bicubic"
        _lay_positions(network, _SIZE // config.patch_size)
        self._network = network.to(self.device)
        self._mean, self._std = (
            torch.tensor(values, device=self.device)[:, None, None] for values in (_MEAN, _STD)
        )

    @torch.inference_mode()
    def __call__(self, images: Tensor, /) -> Tensor:
        """Features `(B, D)` float32, on the CPU, of RGB pictures `(B, 3, H, W)` uint8."""
        x = resize_bicubic(checked_pictures(images), _SIZE).to(self.device).float() / 255
        features: Tensor = self._network((x - self._mean) / self._std).pooler_output
        return features.float().cpu()


def _lay_positions(network: Any, side: int) -> None:
    """Lay the positions of a network on a square of patches, for good."""
    embeddings = network.embeddings
    positions = embeddings.position_embeddings.detach()
    of_class, of_patches = positions[:, :1], positions[:, 1:]
    known = round(of_patches.shape[1] ** 0.5)
    if known == side:
        return
    grid = of_patches.reshape(1, known, known, -1).permute(0, 3, 1, 2)
    scale = (side + _OFFSET) / known
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    laid = torch.cat([of_class, grid.flatten(2).transpose(1, 2)], dim=1)
    embeddings.position_embeddings = torch.nn.Parameter(laid, requires_grad=False)


def _open(source: str | None, device: str | torch.device) -> Extractor:
    return Dinov2Extractor(source or _HUB, device)


#: DINOv2 by a folder or an id of the hub.
DINOV2 = ExtractorKind(
    "dinov2", _open, f"a folder or an id of the Hugging Face hub (default {_HUB})", "transformers"
)
