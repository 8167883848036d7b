"""The real pictures that samples are compared with: a folder, or features that a file keeps."""

from __future__ import annotations

__all__ = ["read_reference", "write_reference"]

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..evaluation import FeatureSet, FeatureStore, Pictures, feature_set, pictures_in


def read_reference(
    place: Path, extractor: Any, store: FeatureStore, square: int | None = None
) -> FeatureSet:
    """The features of real pictures.

    Args:
        place: A folder of pictures, or a file that `write_reference` wrote.
        extractor: What makes, or made, the features.
        store: Where features of a folder are kept.
        square: The side of the middle squares that a folder's pictures are cut to; None takes them
            as they are, all of one size.

    Raises:
        ValueError: If there is neither, or the file's features are of another extractor.
    """
    if place.suffix == ".safetensors" and place.is_file():
        with safe_open(place, "pt") as file:
            facts = file.metadata() or {}
            features = file.get_tensor("features").float()
        made_by = facts.get("extractor", ""), facts.get("digest", "")
        if made_by != (extractor.name, extractor.digest):
            raise ValueError(
                f"{place} has features of {made_by[0]!r} ({made_by[1][:12]}); expected "
                f"{extractor.name!r} ({extractor.digest[:12]})"
            )
        return FeatureSet(features, extractor.name, extractor.digest, facts.get("source", ""))
    if not place.is_dir():
        raise ValueError(f"--reference {place}: expected a folder of pictures")
    pictures = Pictures(pictures_in(place), label=place.resolve().name, square=square)
    found = feature_set(pictures, extractor, store=store)
    assert isinstance(found, FeatureSet)
    return found


def write_reference(place: Path, features: FeatureSet) -> None:
    """Keep features as float16: their rounding moves a Frechet distance by less than 0.1 %."""
    save_file(
        {"features": features.features.to(torch.float16).contiguous()},
        place,
        metadata={
            "extractor": features.extractor,
            "digest": features.digest,
            "source": features.source,
        },
    )
