"""Shelves of the feature store: the vectors of one extractor, many to a file.

A shelf is a folder of shards, which are never changed once they are there. Each holds up to some
thousand vectors with the keys of their pictures, in NumPy's `.npz`, whose archive has a checksum of
each member. A shard that is damaged is removed and its vectors are computed again.
"""

from __future__ import annotations

__all__ = ["Shelf"]

import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import whole_file
from ..settings.warning_place import warn_caller

_KEY_BYTES = 32

# Shards whose vectors are held in memory. Pictures come in the order in which they came before, so
# that a few are enough.
_HELD = 8


class Shelf:
    """The kept vectors of one extractor.

    Args:
        folder: Where its shards are.
        extractor: The extractor's name and the digest of its weights.
        size: Length of a vector.
    """

    def __init__(self, folder: Path, extractor: str, size: int) -> None:
        self._folder = folder
        self._extractor = extractor
        self._size = size
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._seen: set[Path] = set()
        self._held: OrderedDict[Path, np.ndarray[Any, Any]] = OrderedDict()

    def refresh(self) -> None:
        """Look for shards that came since, of this process or another."""
        for path in sorted(self._folder.glob("*.npz")):
            if path in self._seen:
                continue
            keys = self._read(path, "keys")
            if keys is not None:
                self._seen.add(path)
                self._places.update((key.tobytes(), (path, row)) for row, key in enumerate(keys))

    def find(self, key: bytes) -> np.ndarray[Any, Any] | None:
        """The vector of a picture, ``(D,)`` float32, or None."""
        place = self._places.get(key)
        if place is None:
            return None
        path, row = place
        features = self._held.get(path)
        if features is None:
            features = self._read(path, "features")
            if features is None:
                return None
            self._held[path] = features
            if len(self._held) > _HELD:
                self._held.popitem(last=False)
        else:
            self._held.move_to_end(path)
        vector: np.ndarray[Any, Any] = features[row]
        return vector

    def add(self, keys: Sequence[bytes], features: np.ndarray[Any, Any]) -> None:
        """Keep the vectors of pictures, ``(n, D)`` float32, as one shard."""
        path = self._folder / f"{uuid.uuid4().hex}.npz"
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY_BYTES)
        with whole_file(path) as file:
            np.savez(file, keys=rows, features=features, extractor=np.array(self._extractor))
        self._seen.add(path)
        self._places.update((key, (path, row)) for row, key in enumerate(keys))

    def _read(self, path: Path, member: str) -> np.ndarray[Any, Any] | None:
        """A member of a shard; None, and the shard is gone, if it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as shard:
                found: np.ndarray[Any, Any] = shard[member]
                if str(shard["extractor"]) != self._extractor:
                    raise ValueError(f"it is of {shard['extractor']}")
            width, dtype = (_KEY_BYTES, np.uint8) if member == "keys" else (self._size, np.float32)
            if found.ndim != 2 or found.shape[1] != width or found.dtype != dtype:
                raise ValueError(f"{member} have shape {found.shape} and type {found.dtype}")
            if member == "features" and not np.isfinite(found).all():
                raise ValueError("features that are not finite")
        except FileNotFoundError:
            self._forget(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            warn_caller(f"features in {path} are damaged and are computed again ({error})")
            path.unlink(missing_ok=True)
            self._forget(path)
        else:
            return found
        return None

    def _forget(self, path: Path) -> None:
        self._seen.discard(path)
        self._held.pop(path, None)
        self._places = {key: place for key, place in self._places.items() if place[0] != path}
