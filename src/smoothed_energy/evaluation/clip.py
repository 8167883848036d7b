"""A network that embeds pictures and texts in one space: CLIP, from the hub or a folder.

Radford et al., 2021 (https://arxiv.org/abs/2103.00020), with the classes of `transformers`.
"""

from __future__ import annotations

__all__ = ["ClipNetwork"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


class ClipNetwork:
    """CLIP's embeddings of pictures and of texts, both of unit length.

    Pictures are prepared as the model's own ``preprocessor_config.json`` says (for OpenAI's models:
    the shorter side to 224 pixels by PIL's bicubic filter, the middle cut out, normalised), in PIL:
    `transformers`' other backend needs torchvision and resizes differently. Texts are cut to the
    model's length (77 tokens).

    Args:
        source: A hub id or a folder with weights as safetensors.
        processor: Where its tokenizer and its preparation of pictures are, if elsewhere.
        device: Where it runs.

    Raises:
        ValueError: If there is no such model, or it is no CLIP.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        processor: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        import transformers

        texts = processor if processor is not None else source
        # Until transformers 5 the class that works in PIL has the plain name.
        images = getattr(transformers, "CLIPImageProcessorPil", None)
        self._images: Any = _loaded(images or transformers.CLIPImageProcessor, texts)
        self._tokenizer: Any = _loaded(transformers.AutoTokenizer, texts)
        network, loading = _loaded(
            transformers.AutoModel, source, use_safetensors=True, output_loading_info=True
        )
        if network.config.model_type != "clip":
            raise ValueError(f"{source} is a {network.config.model_type} model; expected a clip")
        if missing := sorted(loading["missing_keys"]):  # they would be random
            raise ValueError(f"{source} lacks {len(missing)} weights of CLIP, such as {missing[0]}")
        self.device = torch.device(device)
        self._network = network.eval().requires_grad_(False).float().to(self.device)
        self._source = Path(source).name

    @property
    def name(self) -> str:
        """Its name, and how it has pictures: ``"clip-vit-large-patch14-224-pil-bicubic"``."""
        size: dict[str, int] = dict(self._images.size)
        number = size.get("shortest_edge", size.get("height", 0))
        resample = Image.Resampling(int(self._images.resample)).name.lower()
        return f"{self._source}-{number}-pil-{resample}"

    @property
    def logit_scale(self) -> float:
        """The factor of cosines that the model learned: its logits are their products."""
        return float(self._network.logit_scale.exp())

    @torch.inference_mode()
    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` float32 on the CPU of pictures ``(B, 3, H, W)`` uint8."""
        listed = list(pictures.permute(0, 2, 3, 1).cpu().numpy())
        pixels = self._images(images=listed, return_tensors="pt")["pixel_values"]
        # Not get_image_features, whose result changed its type with transformers 5.
        pooled = self._network.vision_model(pixel_values=pixels.to(self.device)).pooler_output
        return self._unit(self._network.visual_projection(pooled))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``(B, D)`` float32 on the CPU of B texts."""
        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        pooled = self._network.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return self._unit(self._network.text_projection(pooled))

    def cosines(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """The cosine of each picture ``(B, 3, H, W)`` and its text: ``(B,)`` float64."""
        products = self.embed_pictures(pictures).double() * self.embed_texts(texts).double()
        return products.sum(1)

    @staticmethod
    def _unit(embedded: Tensor) -> Tensor:
        return F.normalize(embedded, dim=1).float().cpu()


def _loaded(kind: Any, source: str | Path, **options: object) -> Any:
    try:
        return kind.from_pretrained(str(source), **options)
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(f"cannot load {kind.__name__} from {str(source)!r}: {first}") from error
