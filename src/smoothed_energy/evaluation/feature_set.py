"""Sets of features to compare, from folders, lists of pictures, tensors or saved statistics."""

from __future__ import annotations

__all__ = ["FeatureSet", "Measurable", "feature_set"]

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from .extractor import Extractor
from .pictures import Picture, Pictures, pictures_in
from .statistics import FeatureStatistics
from .store import FeatureStore, Progress


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of pictures, and what they are of.

    Args:
        features: ``(N, D)``.
        extractor: Name of the extractor that made them.
        digest: Digest of its weights.
        source: What they are of. Two sets of one source are one set: it has the content's digest.
    """

    features: Tensor
    extractor: str = ""
    digest: str = ""
    source: str = ""

    def __len__(self) -> int:
        return len(self.features)

    def statistics(self) -> FeatureStatistics:
        """Their count, mean and second moment."""
        statistics = FeatureStatistics(self.extractor, digest=self.digest, source=self.source)
        statistics.update(self.features)
        return statistics


#: What can be measured: a folder, a file of statistics (``.npz``), pictures, features ``(N, D)``,
#: or what was made of them before.
Measurable: TypeAlias = (
    "str | Path | Pictures | Iterable[Picture] | Tensor | FeatureSet | FeatureStatistics"
)


def feature_set(
    source: Measurable,
    extractor: Extractor | None = None,
    *,
    store: FeatureStore | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> FeatureSet | FeatureStatistics:
    """The features of what can be measured, or its statistics if nothing else is known of it.

    Args:
        source: A folder, pictures of one size, features, or saved statistics.
        extractor: What makes features of pictures; not needed for others. Sets of another extractor
            are refused.
        store: Where features are kept.
        batch_size: Pictures that go through the network at once.
        progress: Told how many more pictures are done.

    Raises:
        ValueError: If there are no pictures, one can't be read, their sizes differ, or features or
            statistics are of another extractor.
    """
    if isinstance(source, Tensor):
        if source.ndim == 4:
            source = list(source)
        else:
            return _of_tensor(source)
    if isinstance(source, (str, Path)) and Path(source).is_file():
        if Path(source).suffix != ".npz":
            raise ValueError(
                f"{source} is a file; expected a folder of pictures, or .npz statistics"
            )
        source = FeatureStatistics.load(source)
    if isinstance(source, (FeatureSet, FeatureStatistics)):
        if extractor is not None:
            _check_extractor(source, extractor)
        return source
    if extractor is None:
        raise ValueError(
            "pictures need an extractor to have features; expected one of open_extractor"
        )
    label, pictures = _pictures(source)
    keys: list[bytes] = []
    parts: list[Tensor] = []
    store = FeatureStore(None) if store is None else store
    for part_keys, part in store.chunks(pictures.of_one_size(), extractor, batch_size, progress):
        keys.extend(part_keys)
        parts.append(part)
    if not parts:
        raise ValueError("there are no pictures to measure")
    content = hashlib.sha256(b"".join(sorted(keys))).hexdigest()[:8]
    square = "" if pictures.square is None else f", middle squares of {pictures.square}"
    return FeatureSet(
        torch.cat(parts),
        extractor.name,
        extractor.digest,
        f"{label}{square}: {len(pictures)} pictures, {content}",
    )


def _of_tensor(features: Tensor) -> FeatureSet:
    if features.ndim != 2:
        raise ValueError(
            f"a tensor of shape {tuple(features.shape)}; expected features (N, D), or pictures "
            "(N, 3, H, W) uint8"
        )
    content = hashlib.sha256(features.double().cpu().contiguous().numpy().tobytes())
    return FeatureSet(features, source=f"{len(features)} features, {content.hexdigest()[:8]}")


def _pictures(source: str | Path | Pictures | Iterable[Picture]) -> tuple[str, Pictures]:
    if isinstance(source, (str, Path)):
        return Path(source).resolve().name, Pictures(pictures_in(source))
    pictures = source if isinstance(source, Pictures) else Pictures(source)
    return pictures.label or "pictures", pictures


def _check_extractor(found: FeatureSet | FeatureStatistics, extractor: Extractor) -> None:
    if (found.extractor, found.digest) != (extractor.name, extractor.digest):
        raise ValueError(
            f"{found.source or 'features'} are of the extractor {found.extractor!r} "
            f"({found.digest[:12]}); expected {extractor.name!r} ({extractor.digest[:12]})"
        )
