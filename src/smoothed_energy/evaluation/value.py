"""Values of metrics, which say what they are of, and tables that never mix them."""

from __future__ import annotations

__all__ = ["Value", "ValueTable", "metric_title"]

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .metric import Better

# Names that papers use, which stand for a metric in the features of one network at one resize.
_FID, _FD_DINOV2 = "inception-v3-299-bilinear-tf1", "dinov2-vitl14-224-pil-bicubic"
_CMMD = "clip-vitl14-336-square-pil-bicubic"
_PUBLISHED = {
    ("frechet", _FID): "FID",
    ("kernel", _FID): "KID",
    ("frechet", _FD_DINOV2): "FD-DINOv2",
    ("cmmd", _CMMD): "CMMD",
}
_PLAIN = {
    "frechet": "Frechet distance",
    "kernel": "kernel distance",
    "cmmd": "Gaussian kernel distance",
    "vendi": "Vendi score",
}


@dataclass(frozen=True)
class Value:
    """A number of a row, with all that must be the same in numbers it is compared to.

    Args:
        metric: Name of the metric.
        extractor: Name of the extractor, which says its resize; what made the number otherwise.
        value: The number.
        low: Lower end of its interval over seeds, None without one.
        high: Upper end.
        count: How many samples it is of.
        against: What the samples were compared to; empty if to nothing.
        better: Whether a better row has a lower or a higher number; None if neither is better.
        weights: Digest of the extractor's weights; empty if it has none.
        intervals: How the interval was made, for people to read.
    """

    metric: str
    extractor: str
    value: float
    low: float | None
    high: float | None
    count: int
    against: str
    better: Better | None
    weights: str = ""
    intervals: str = ""

    @property
    def name(self) -> str:
        """What to call it: the metric, and the extractor with its resize.

        FID, KID, FD-DINOv2 and CMMD are called so only in the features that define them.
        """
        short = metric_title(self.metric, self.extractor)
        return f"{short} ({self.extractor})" if self.extractor else short

    @property
    def text(self) -> str:
        """The number in digits that mean something, with its interval."""
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        digits = _digits(self.high - self.low, self.value)
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def to_dict(self) -> dict[str, Any]:
        """Itself as values of JSON, its name included."""
        return {"name": self.name, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Value:
        """The inverse of `to_dict`.

        Raises:
            ValueError: If a field is missing or not known.
        """
        known = [field.name for field in fields(cls)]
        given = {name: value for name, value in values.items() if name != "name"}
        if unknown := sorted(given.keys() - {*known}):
            raise ValueError(f"{unknown[0]} is no field of a value; expected {', '.join(known)}")
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"a value lacks fields: {error}") from error


def metric_title(metric: str, extractor: str) -> str:
    """What to call a metric in the features of an extractor, without the extractor's name."""
    return _PUBLISHED.get((metric, extractor), _PLAIN.get(metric, metric))


def _digits(width: float, value: float) -> int:
    """Decimals that show two digits of an interval's width."""
    size = width if width > 0 else abs(value)
    return 0 if size == 0 else min(max(1 - math.floor(math.log10(size)), 0), 8)


class ValueTable:
    """Rows of values, whose columns hold numbers of one kind only.

    A column is a metric. Its values have one extractor with one digest of weights, one reference,
    and one count of samples, on which most metrics depend.
    """

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Value]] = {}
        self._kinds: dict[str, Value] = {}

    @property
    def columns(self) -> dict[str, str]:
        """The metrics in their order, and what their columns are called."""
        return {metric: value.name for metric, value in self._kinds.items()}

    @property
    def rows(self) -> dict[str, dict[str, Value]]:
        """The values of each row, by metric."""
        return {row: dict(values) for row, values in self._rows.items()}

    def add(self, row: str, values: Iterable[Value]) -> None:
        """Add values to a row.

        Raises:
            ValueError: If a value is of another kind than those in its column, or its place is
                taken.
        """
        kinds, cells = dict(self._kinds), dict(self._rows.get(row, {}))
        for value in values:
            kind = kinds.setdefault(value.metric, value)
            for field in ("extractor", "weights", "against", "count"):
                found, expected = getattr(value, field), getattr(kind, field)
                if found != expected:
                    raise ValueError(
                        f"{row}: {value.name} has {field} {found!r}, where the column has "
                        f"{expected!r}; such numbers can't be compared"
                    )
            if value.metric in cells:
                raise ValueError(f"{row}: there is a {value.name} already")
            cells[value.metric] = value
        # All or nothing: a refused value leaves the table as it was.
        self._kinds, self._rows[row] = kinds, cells
