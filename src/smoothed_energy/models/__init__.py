"""Pipelines ready for use: the embedded model, folders and hub ids."""

from .loading import load
from .locations import (
    ModelError,
    PickledWeightsError,
    UnknownModelError,
    available,
    embedded_controlnets,
    model_folder,
)

__all__ = [
    "ModelError",
    "PickledWeightsError",
    "UnknownModelError",
    "available",
    "embedded_controlnets",
    "load",
    "model_folder",
]
