r"""Statistics of features that can be merged: count, mean and second moment, in float64.

Of :math:`n` vectors with mean :math:`\mu` the second moment about the mean is
:math:`S = \sum_i (x_i - \mu)(x_i - \mu)^T`. Two parts are merged by

.. math::
    \mu = \mu_1 + \tfrac{n_2}{n} (\mu_2 - \mu_1), \qquad
    S = S_1 + S_2 + \tfrac{n_1 n_2}{n} (\mu_2 - \mu_1)(\mu_2 - \mu_1)^T

(Chan, Golub and LeVeque, 1979), which loses no precision to a large mean, as a sum of
:math:`x x^T` would. So the pictures of a large set need not be kept: shards that are read apart and
merged give what one pass gives.
"""

from __future__ import annotations

__all__ = ["FeatureStatistics", "Moments", "moments"]

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import whole_file

#: The keys of a saved file. A change of their meaning gets another format.
_FORMAT = "smoothed-energy statistics 1"


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of feature vectors.

    Attributes:
        mean: ``(D,)`` float64.
        covariance: ``(D, D)`` float64, unbiased.
        count: How many vectors there were. The Frechet distance is biased upwards for few: compare
            only distances of equal counts.
    """

    mean: Tensor
    covariance: Tensor
    count: int


class FeatureStatistics:
    """Count, mean and second moment of features, updated a batch at a time.

    Args:
        extractor: Name of the extractor that made the features. Statistics of different extractors
            are never merged.
        digest: Digest of the extractor's weights.
        source: What the features are of, for people to read.
    """

    def __init__(self, extractor: str = "", *, digest: str = "", source: str = "") -> None:
        self.extractor = extractor
        self.digest = digest
        self.source = source
        self._count = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def count(self) -> int:
        """How many vectors there were."""
        return self._count

    @property
    def mean(self) -> Tensor:
        """Their mean, ``(D,)`` float64; of length 0 before the first."""
        return self._mean

    def update(self, features: Tensor) -> None:
        """Add a batch of features.

        Args:
            features: ``(B, D)`` of any float dtype; ``B`` may be 0.

        Raises:
            ValueError: If the shape is another, or a value is not finite.
        """
        if features.ndim != 2 or features.shape[1] < 1:
            raise ValueError(f"features have shape {tuple(features.shape)}; expected (B, D)")
        if not torch.isfinite(features).all():
            raise ValueError("features contain values that are not finite")
        if not len(features):
            return
        x = features.double().cpu()
        mean = x.mean(0)
        centred = x - mean
        self._add(len(x), mean, centred.T @ centred)

    def merge(self, other: FeatureStatistics) -> None:
        """Add the vectors behind other statistics.

        Raises:
            ValueError: If they are of another extractor, other weights or another dimension.
        """
        _check_extractor(other, self.extractor, self.digest)
        if other._count:
            self._add(other._count, other._mean, other._scatter)

    def _add(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if not self._count:
            self._count, self._mean, self._scatter = count, mean.clone(), scatter.clone()
            return
        if mean.shape != self._mean.shape:
            raise ValueError(
                f"statistics of {len(self._mean)} features can't take vectors of {len(mean)}"
            )
        total = self._count + count
        shift = mean - self._mean
        self._scatter += scatter
        self._scatter.addr_(shift, shift, alpha=self._count * count / total)
        self._mean += shift * (count / total)
        self._count = total

    def moments(self) -> Moments:
        """Mean and unbiased covariance.

        Raises:
            ValueError: If there are fewer than two vectors.
        """
        if self._count < 2:
            raise ValueError(f"statistics of {self._count} vectors; a covariance needs at least 2")
        return Moments(self._mean.clone(), self._scatter / (self._count - 1), self._count)

    def save(self, path: str | Path) -> None:
        """Write them to a file (NumPy's ``.npz``), whole or not at all."""
        with whole_file(Path(path)) as file:
            np.savez(
                file,
                format=np.array(_FORMAT),
                extractor=np.array(self.extractor),
                digest=np.array(self.digest),
                source=np.array(self.source),
                count=np.array(self._count),
                mean=self._mean.numpy(),
                scatter=self._scatter.numpy(),
            )

    @classmethod
    def load(
        cls, path: str | Path, *, extractor: str | None = None, digest: str | None = None
    ) -> FeatureStatistics:
        """Read them from a file.

        Args:
            path: A file that `save` wrote.
            extractor: The name of the extractor that they must be of; None takes any.
            digest: The digest of weights that they must be of; None takes any.

        Raises:
            ValueError: If there is no such file, if it is no file of statistics, if it is damaged,
                or if it is of another extractor or other weights.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as file:
                fields: dict[str, Any] = {name: file[name] for name in file.files}
        except FileNotFoundError as error:
            raise ValueError(f"{path}: there is no such file") from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
            raise ValueError(f"{path} is no file of statistics, or damaged ({error})") from error
        if str(fields.get("format", "")) != _FORMAT:
            found = ", ".join(sorted(fields))
            raise ValueError(
                f"{path} holds {found or 'nothing'}; expected statistics that `save` or "
                "`smoothed-energy evaluate --save-statistics` wrote, which say their extractor"
            )
        statistics = cls(
            str(fields["extractor"]), digest=str(fields["digest"]), source=str(fields["source"])
        )
        try:
            _check_extractor(
                statistics,
                statistics.extractor if extractor is None else extractor,
                statistics.digest if digest is None else digest,
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        statistics._count = int(fields["count"])
        statistics._mean = torch.from_numpy(fields["mean"])
        statistics._scatter = torch.from_numpy(fields["scatter"])
        return statistics


def _check_extractor(statistics: FeatureStatistics, extractor: str, digest: str) -> None:
    if statistics.extractor != extractor:
        raise ValueError(
            f"statistics of the extractor {statistics.extractor!r}; expected those of {extractor!r}"
        )
    if statistics.digest != digest:
        raise ValueError(
            f"statistics of {extractor!r} with weights {statistics.digest[:12]!r}; expected those "
            f"with weights {digest[:12]!r}"
        )


def moments(features: Tensor) -> Moments:
    """The moments of features ``(N, D)`` of any float dtype, computed in float64.

    Raises:
        ValueError: If there are fewer than two vectors, or values that are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; expected (N >= 2, D)")
    statistics = FeatureStatistics()
    statistics.update(features)
    return statistics.moments()
