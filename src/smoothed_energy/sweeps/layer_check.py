"""A check of guidances against the shape of a model, before its weights are loaded anywhere."""

from __future__ import annotations

__all__ = ["check_guidances"]

from collections.abc import Iterable

from ..models.shape import open_shape
from .configuration import Configuration
from .file import SweepError


def check_guidances(model: str, configurations: Iterable[Configuration]) -> None:
    """Refuse guidances that a model has no layers for.

    Args:
        model: What `smoothed_energy.models.load` takes.
        configurations: The configurations.

    Raises:
        SweepError: If the model's configuration can't be read, or one doesn't fit.
    """
    guided = [one for one in configurations if one.settings.guidance]
    if not guided:
        return
    try:
        denoiser, _ = open_shape(model)
    except ValueError as error:
        raise SweepError(str(error)) from error
    for one in guided:
        for guidance in one.settings.guidance:
            try:
                guidance.select(denoiser)
            except (TypeError, ValueError, RuntimeError) as error:
                raise SweepError(f"configuration {one.label!r}: {error}") from error
