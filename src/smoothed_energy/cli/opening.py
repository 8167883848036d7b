"""Models by name: whole pipelines, or only the shape of their denoiser."""

from __future__ import annotations

__all__ = ["open_pipeline", "open_shape"]

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..models.device import check_device
from .generate_settings import GenerateSettings

if TYPE_CHECKING:
    from torch import nn


def open_pipeline(settings: GenerateSettings) -> Any:
    """The pipeline of a run, ready and quiet.

    Raises:
        ValueError: If there is no such model, or it cannot be loaded safely.
    """
    _quiet()
    from ..models import load

    options: dict[str, Any] = {}
    if settings.dtype != "auto":
        import torch

        options["dtype"] = getattr(torch, settings.dtype)
    if settings.device != "auto":
        check_device(settings.device)
        options["device"] = settings.device
    if settings.controlnet is not None:
        options["controlnet"] = settings.controlnet
    with _without_warnings():
        pipeline = load(settings.model, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def open_shape(model: str) -> tuple[nn.Module, int]:
    """A model's denoiser without weights, and how many pixels a side of one latent cell covers.

    Raises:
        ValueError: If there is no such model, or its denoiser is not of diffusers.
    """
    from ..models import shape

    shape.check_reachable(model)  # before what takes seconds to import
    _quiet()
    with _without_warnings():
        return shape.open_shape(model)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """A block without the advice of libraries to those who write programs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _quiet() -> None:
    """Keep the libraries' own progress bars and advice out of this program's output."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for logging in (of_diffusers, of_transformers):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
