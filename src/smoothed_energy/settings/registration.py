"""Registries of metrics by name, in which a definition takes the place of its earlier self only."""

from __future__ import annotations

__all__ = ["register_metric_as"]

from collections.abc import Callable
from typing import Any, TypeVar

_Metric = TypeVar("_Metric")


def register_metric_as(
    registry: dict[str, _Metric],
    name: str,
    metric: _Metric,
    function: Callable[[_Metric], Callable[..., Any]],
) -> None:
    """Add a metric to a registry.

    Args:
        registry: Names to metrics.
        name: The metric's name.
        metric: The metric. If its function was defined again, as when a notebook's cell runs twice,
            it takes the place of its earlier self.
        function: The function of a metric of this registry.

    Raises:
        ValueError: If another metric has the name.
    """
    other = registry.get(name)
    if other is not None and _origin(function(other)) != _origin(function(metric)):
        raise ValueError(
            f"{_origin(function(metric))} and {_origin(function(other))} are both the metric "
            f"{name!r}; expected a name of its own"
        )
    registry[name] = metric


def _origin(function: Callable[..., Any]) -> str:
    """Where a function is defined."""
    name = getattr(function, "__qualname__", None)
    return repr(function) if name is None else f"{function.__module__}.{name}"
