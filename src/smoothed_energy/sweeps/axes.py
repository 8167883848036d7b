"""The configurations of a sweep: what its axes and its list come to."""

from __future__ import annotations

__all__ = ["configurations"]

from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Any

from ..guidance.guidance import Guidance
from .configuration import Configuration, PictureSettings, canonical_json, value_text
from .file import Sweep, SweepError

_LABEL = "label"

#: Plans are held in memory, and every picture is looked for.
_MOST_CONFIGURATIONS, _MOST_PICTURES = 100_000, 100_000_000


def configurations(sweep: Sweep) -> tuple[Configuration, ...]:
    """All configurations: the product of the axes, then those of the list.

    Every text is read here, so that a mistake shows before anything is drawn.

    Raises:
        SweepError: If the axes don't fit together, a value is not understood, or two
            configurations are the same or have the same label.
    """
    _check_axes(sweep.axes)
    _check_count(sweep)
    varied = [_labelled(values) for values in _combinations(sweep.axes)]
    listed = [_labelled(values) for values in sweep.listed]
    if listed and not sweep.axes:
        varied = []
    read: list[tuple[str, PictureSettings]] = []
    for label, values in [*varied, *listed]:
        try:
            read.append((label, PictureSettings.from_values({**sweep.base, **values})))
        except (ValueError, TypeError) as error:
            raise SweepError(f"configuration {label!r}: {error}") from None
    _check_different(read)
    names = dict.fromkeys([name for _, values in [*varied, *listed] for name in values])
    table = [{name: settings.value(name) for name in names} for _, settings in read]
    varying = [name for name in names if len({repr(row[name]) for row in table}) > 1]
    return tuple(
        [
            Configuration(index, label, settings, {name: row[name] for name in varying})
            for index, ((label, settings), row) in enumerate(zip(read, table, strict=True))
        ]
    )


def _check_axes(axes: tuple[dict[str, list[Any]], ...]) -> None:
    seen: set[str] = set()
    for number, axis in enumerate(axes):
        counts = {name: len(values) for name, values in axis.items()}
        if not counts.keys() - {_LABEL} or 0 in counts.values():
            raise SweepError(f"axes.{number}: expected settings with at least one value each")
        if len({*counts.values()}) > 1:
            found = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise SweepError(
                f"axes.{number}: settings of one axis go together, so each needs as many values; "
                f"{found}"
            )
        twice = sorted(seen & (counts.keys() - {_LABEL}))
        if twice:
            raise SweepError(f"axes.{number}: {twice[0]!r} is in an earlier axis, too")
        seen |= counts.keys()


def _check_count(sweep: Sweep) -> None:
    """Refuse more than anybody draws, before memory holds it.

    Raises:
        SweepError: If it is more.
    """
    count = prod(len(next(iter(axis.values()))) for axis in sweep.axes) + len(sweep.listed)
    if count > _MOST_CONFIGURATIONS:
        raise SweepError(
            f"the axes have {count} combinations; expected at most {_MOST_CONFIGURATIONS}"
        )
    pairs = 1 if sweep.pairs == "zip" else len(sweep.prompts)
    pictures = count * pairs * len(sweep.seeds)
    if pictures > _MOST_PICTURES:
        raise SweepError(f"there are {pictures} pictures; expected at most {_MOST_PICTURES}")


def _combinations(axes: tuple[dict[str, list[Any]], ...]) -> list[dict[str, Any]]:
    """The values of each combination; under the label, the labels of the axes that have one."""
    points = []
    for axis in axes:
        rows = [dict(zip(axis, row, strict=True)) for row in zip(*axis.values(), strict=True)]
        # An axis of one value says nothing about what varies.
        points.append([{**row, _LABEL: _axis_label(row) if len(rows) > 1 else ""} for row in rows])
    found = []
    for chosen in product(*points):
        values = {name: value for row in chosen for name, value in row.items()}
        labels = [row[_LABEL] for row in chosen if row[_LABEL]]
        found.append({**values, _LABEL: ", ".join(labels) or "base"})
    return found


def _labelled(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return _axis_label(values), {name: item for name, item in values.items() if name != _LABEL}


def _axis_label(values: Mapping[str, Any]) -> str:
    """The label that is given, else the values with their names."""
    if values.get(_LABEL):
        return str(values[_LABEL])
    parts = []
    for name, value in values.items():
        if name == "guidance":
            parts.append(_guidance_text(value))
        elif name != _LABEL:
            parts.append(f"{name.removeprefix('guidance.')}={value_text(value)}")
    return ", ".join(parts) or "base"


def _guidance_text(value: Any) -> str:
    if value is None or value == [] or value == "none":
        return "unguided"
    if isinstance(value, (list, tuple)):
        return " + ".join(map(_guidance_text, value))
    if isinstance(value, Mapping):
        return "; ".join(f"{name}={item}" for name, item in value.items())
    return repr(value) if isinstance(value, Guidance) else str(value)


def _check_different(read: list[tuple[str, PictureSettings]]) -> None:
    labels: dict[str, str] = {}
    seen: dict[str, str] = {}
    for label, settings in read:
        form = canonical_json(settings.to_dict())
        if form in seen:
            raise SweepError(
                f"the configurations {seen[form]!r} and {label!r} are the same; expected each once"
            )
        if label in labels:
            raise SweepError(
                f"two configurations have the label {label!r}; give them a `label` each"
            )
        seen[form] = labels[label] = label
