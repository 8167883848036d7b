"""Settings of methods that sources recommend for a model, each with where it is published."""

from __future__ import annotations

__all__ = ["Advice"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _fits_all(config: Any) -> bool:
    return True


@dataclass(frozen=True)
class Advice:
    """What a source recommends for one method with a model.

    Args:
        method: The method's name.
        layers: The layers, as `layer_selection` reads them.
        source: Where it is published.
        scale: The scale; None if the source tells none.
        steps: The steps; None if it tells none.
        model: Which models of the family it is for, in words; empty: all.
        fits: Whether it is for a denoiser of this configuration.
    """

    method: str
    layers: str
    source: str
    scale: float | None = None
    steps: str | None = None
    model: str = ""
    fits: Callable[[Any], bool] = _fits_all

    @property
    def settings(self) -> dict[str, Any]:
        """What it says, as settings of the method."""
        told = {"layers": self.layers, "scale": self.scale, "steps": self.steps}
        return {name: value for name, value in told.items() if value is not None}
