"""Workers on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["RayCluster", "draw_on_ray"]


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster."""

    address: str
    workers: int | None = None


def draw_on_ray(*given: Any) -> None:
    """Draw on a cluster."""
    raise NotImplementedError
