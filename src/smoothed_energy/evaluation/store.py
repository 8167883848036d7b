"""The feature store: features of pictures, computed once and kept.

They are kept by content: SHA-256 of the decoded pixels, the extractor's name (which says its
resize) and the digest of its weights. A picture that moved or was saved again keeps its features;
one that changed, another extractor or other weights get new ones.
"""

from __future__ import annotations

__all__ = ["FeatureStore", "Progress"]

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..settings.checks import check_count
from .extractor import Extractor
from .pictures import Picture, Pictures, pixel_digest
from .shelf import Shelf
from .statistics import FeatureStatistics

#: Told how many more pictures are done.
Progress: TypeAlias = Callable[[int], None]

# Pictures that are read ahead and in memory at once, and vectors that are written as one shard.
_CHUNK = 64
_SHARD = 1024


class FeatureStore:
    """Features of pictures, computed once and kept in a folder.

    Two processes may use one folder at once: what both compute is kept twice at worst.

    Args:
        folder: Where they are kept; it may be new. None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._shelves: dict[str, Shelf] = {}

    def features(
        self,
        pictures: Pictures | Iterable[Picture],
        extractor: Extractor,
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> Tensor:
        """Features of pictures, ``(N, D)`` float32, in their order.

        Args:
            pictures: Files, images of PIL, or ``(3, H, W)`` uint8.
            extractor: What makes features.
            batch_size: Pictures that go through the network at once.
            progress: Told how many more pictures are done.

        Raises:
            ValueError: If a picture can't be read, or the extractor gives something else than
                finite vectors of its size.
        """
        found = [part for _, part in self.chunks(pictures, extractor, batch_size, progress)]
        return torch.cat(found) if found else torch.empty(0, extractor.feature_size)

    def statistics(
        self,
        pictures: Pictures | Iterable[Picture],
        extractor: Extractor,
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> FeatureStatistics:
        """Statistics of the features, in memory that does not grow with the number of pictures."""
        statistics = FeatureStatistics(extractor.name, digest=extractor.digest)
        for _, part in self.chunks(pictures, extractor, batch_size, progress):
            statistics.update(part)
        return statistics

    def chunks(
        self,
        pictures: Pictures | Iterable[Picture],
        extractor: Extractor,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> Iterator[tuple[list[bytes], Tensor]]:
        """Features in parts: the digests of some pictures, and their features ``(n, D)``."""
        check_count("batch_size", batch_size)
        series = pictures if isinstance(pictures, Pictures) else Pictures(pictures)
        shelf = self._shelf(extractor)
        new: dict[bytes, Tensor] = {}
        with ThreadPoolExecutor(4) as readers:
            try:
                for start in range(0, len(series), _CHUNK):
                    images = list(
                        readers.map(
                            series.__getitem__, range(start, min(start + _CHUNK, len(series)))
                        )
                    )
                    keys = [pixel_digest(image) for image in images]
                    vectors = {key: _found(key, new, shelf) for key in keys}
                    missing = {
                        key: image
                        for key, image in zip(keys, images, strict=True)
                        if vectors[key] is None
                    }
                    computed = _computed(missing, extractor, batch_size)
                    new.update(computed)
                    vectors.update(computed)
                    yield keys, torch.stack([vectors[key] for key in keys])  # type: ignore[misc]
                    if progress is not None:
                        progress(len(keys))
                    if len(new) >= _SHARD:
                        _keep(new, shelf)
            finally:
                # What was computed before an error or an interruption is kept, too.
                _keep(new, shelf)

    def _shelf(self, extractor: Extractor) -> Shelf | None:
        if self.folder is None:
            return None
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", extractor.name):
            raise ValueError(
                f"extractor name {extractor.name!r}: expected small letters, digits, '.', '+', '-'"
            )
        identity = f"{extractor.name} {extractor.digest}"
        if identity not in self._shelves:
            place = self.folder / extractor.name / extractor.digest[:16]
            self._shelves[identity] = Shelf(place, identity, extractor.feature_size)
        shelf = self._shelves[identity]
        shelf.refresh()
        return shelf


def _found(key: bytes, new: dict[bytes, Tensor], shelf: Shelf | None) -> Tensor | None:
    if key in new or shelf is None:
        return new.get(key)
    vector = shelf.find(key)
    return None if vector is None else torch.from_numpy(vector.copy())


def _computed(
    images: dict[bytes, Tensor], extractor: Extractor, batch_size: int
) -> dict[bytes, Tensor]:
    """The features of pictures, in batches of one size each."""
    by_size: dict[Sequence[int], list[bytes]] = {}
    for key, image in images.items():
        by_size.setdefault(tuple(image.shape), []).append(key)
    found: dict[bytes, Tensor] = {}
    for keys in by_size.values():
        for start in range(0, len(keys), batch_size):
            part = keys[start : start + batch_size]
            features = extractor(torch.stack([images[key] for key in part]))
            if tuple(features.shape) != (len(part), extractor.feature_size):
                raise ValueError(
                    f"{extractor.name} gave {tuple(features.shape)} for {len(part)} pictures; "
                    f"expected ({len(part)}, {extractor.feature_size})"
                )
            if not torch.isfinite(features).all():
                raise ValueError(f"{extractor.name} gave features that are not finite")
            found.update(zip(part, features.float().cpu(), strict=True))
    return found


def _keep(new: dict[bytes, Tensor], shelf: Shelf | None) -> None:
    if new and shelf is not None:
        shelf.add(list(new), np.stack([vector.numpy() for vector in new.values()]))
        new.clear()
