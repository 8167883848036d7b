"""Models by name: whole pipelines, or only the shape of their denoiser."""

from __future__ import annotations

__all__ = ["open_pipeline", "open_shape"]

from typing import TYPE_CHECKING, Any

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
        options["device"] = _device(settings.device)
    if settings.controlnet is not None:
        options["controlnet"] = settings.controlnet
    pipeline = load(settings.model, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def open_shape(model: str) -> tuple[nn.Module, int]:
    """A model's denoiser without weights, and how many pixels a side of one latent cell covers.

    Raises:
        ValueError: If there is no such model, or its denoiser is not of diffusers.
    """
    _quiet()
    from ..models import shape

    return shape.open_shape(model)


def _device(name: str) -> str:
    """The device's name, if it is here."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        here = ["cpu"]
        here += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(
            f"--device {name} is not here; expected one of {', '.join(here)}"
        ) from None
    return name


def _quiet() -> None:
    """Keep the libraries' own progress bars and advice out of this program's output."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for logging in (of_diffusers, of_transformers):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
