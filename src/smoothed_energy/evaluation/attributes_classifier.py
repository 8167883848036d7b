"""A classifier that tells what portraits of the embedded model show."""

from __future__ import annotations

__all__ = ["AttributeClassifier"]

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from .attributes import AttributeVocabulary
from .attributes_network import AttributeNetwork

#: The classifier of the embedded model `avatars`; its model card says how it was trained.
_FOLDER = Path(__file__).parents[1] / "models" / "avatars" / "attributes" / "classifier"


class AttributeClassifier:
    """The attributes that pictures show, each the most probable of its values.

    Args:
        folder: A folder with ``model.safetensors`` and ``attributes.json``, as
            ``training/attributes.py`` writes them; by default that of the embedded model.
        device: Where the network runs, in float32.

    Attributes:
        vocabulary: The attributes and their values.
        image_size: Pixels a side that pictures are resized to.
        accuracy: Its own accuracy in percent on held-out drawings: under ``"drawings"`` as they
            are, and under ``"decoded"`` after the model's autoencoder. ``"named"`` has it by
            attribute, of what captions have words for, and ``"mean"`` that of all of these: what a
            perfect model would score.

    Raises:
        ValueError: If the folder has no classifier, or its files do not fit each other.
    """

    def __init__(
        self, folder: str | Path | None = None, *, device: str | torch.device = "cpu"
    ) -> None:
        place = _FOLDER if folder is None else Path(folder)
        try:
            described: dict[str, Any] = json.loads((place / "attributes.json").read_text())
            weights = load_file(place / "model.safetensors")
        except FileNotFoundError as error:
            raise ValueError(
                f"{place} has no attribute classifier; expected model.safetensors and "
                "attributes.json in it"
            ) from error
        self.vocabulary = AttributeVocabulary.from_json(described["vocabulary"])
        self.image_size: int = described["image_size"]
        self.accuracy: Mapping[str, Any] = described["accuracy"]
        self.name = "avatars-attributes" if folder is None else place.name
        sizes = {attribute: len(values) for attribute, values in self.vocabulary.values.items()}
        network = AttributeNetwork(sizes, image_size=self.image_size)
        # Batches that were counted in training are not kept.
        counters = {k: v for k, v in network.state_dict().items() if k.endswith("batches_tracked")}
        try:
            network.load_state_dict(weights | counters)
        except RuntimeError as error:
            raise ValueError(
                f"the weights in {place} do not fit its attributes.json: {error}"
            ) from error
        self.device = torch.device(device)
        self._network = network.float().eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def probabilities(self, pictures: Tensor) -> dict[str, Tensor]:
        """Attributes to the probabilities of their values, ``(B, number of values)`` float32.

        Args:
            pictures: ``(B, 3, H, W)`` uint8 RGB. Other sizes than `image_size` are resized with
                PyTorch's antialiased bicubic filter.

        Raises:
            ValueError: If they have another shape or dtype.
        """
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(
                f"pictures are {pictures.dtype} of shape {tuple(pictures.shape)}; expected uint8 "
                "of shape (B, 3, H, W)"
            )
        x = pictures.to(self.device).float()
        size = (self.image_size, self.image_size)
        if tuple(x.shape[-2:]) != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
        logits = self._network(x.clamp(0, 255) / 127.5 - 1)
        return {attribute: found.softmax(1).cpu() for attribute, found in logits.items()}

    def __call__(self, pictures: Tensor) -> list[dict[str, str]]:
        """What each of the pictures ``(B, 3, H, W)`` uint8 shows: attributes to values.

        `smoothed_energy.evaluation.attributes.NONE` stands for what is absent or has no word.
        """
        found: list[dict[str, str]] = [{} for _ in range(len(pictures))]
        for attribute, probabilities in self.probabilities(pictures).items():
            values = self.vocabulary.values[attribute]
            for shown, index in zip(found, probabilities.argmax(1).tolist(), strict=True):
                shown[attribute] = values[index]
        return found
