"""Features of CLIP's image encoder, the network of CMMD.

Embeddings in the space that images and texts share, of unit length, as Jayasumana et al. use them
for CMMD (https://arxiv.org/abs/2401.09603): ViT-L/14 at 336 pixels, for the middle square of each
picture, resized by PIL's bicubic filter. For square pictures, and the size that the model states,
that is also what CLIP's own preprocessing does.
"""

from __future__ import annotations

__all__ = ["CLIP", "ClipExtractor"]

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .extractor import Extractor, ExtractorKind, checked_pictures, weights_digest
from .pil_resize import middle_square, resize_bicubic
from .pretrained import load_pretrained

_HUB = "openai/clip-vit-large-patch14-336"
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)

# The names that OpenAI gave widths and depths.
_SIZES = {(768, 12): "vitb", (1024, 24): "vitl", (1280, 32): "vith"}


class ClipExtractor:
    """Image embeddings of a CLIP model, of unit length.

    Args:
        source: A folder, or an id of the Hugging Face hub.
        device: Where the network runs.

    Raises:
        ImportError: If `transformers` has no CLIP.
        ValueError: If the source has none.
    """

    def __init__(self, source: str = _HUB, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        model: Any = load_pretrained("CLIPModel", source)
        config = model.config.vision_config
        self._size: int = config.image_size
        self.feature_size: int = model.config.projection_dim
        # The text encoder has no part in this.
        network = nn.ModuleDict(
            {"encoder": model.vision_model, "projection": model.visual_projection}
        )
        self.digest = weights_digest(network)
        depth = (config.hidden_size, config.num_hidden_layers)
        form = _SIZES.get(depth, "vit{}x{}-".format(*depth))
        self.name = f"clip-{form}{config.patch_size}-{self._size}-square-pil-bicubic"
        self._network = network.to(self.device)
        self._mean, self._std = (
            torch.tensor(values, device=self.device)[:, None, None] for values in (_MEAN, _STD)
        )

    @torch.inference_mode()
    def __call__(self, images: Tensor, /) -> Tensor:
        """Features `(B, D)` float32, on the CPU, of RGB pictures `(B, 3, H, W)` uint8."""
        x = resize_bicubic(middle_square(checked_pictures(images)), self._size)
        x = (x.to(self.device).float() / 255 - self._mean) / self._std
        embeddings = self._network["projection"](self._network["encoder"](x).pooler_output)
        return F.normalize(embeddings.float(), dim=1).cpu()


def _open(source: str | None, device: str | torch.device) -> Extractor:
    return ClipExtractor(source or _HUB, device)


#: CLIP by a folder or an id of the hub.
CLIP = ExtractorKind(
    "clip", _open, f"a folder or an id of the Hugging Face hub (default {_HUB})", "transformers"
)
