"""Models by name: whole pipelines, or only the shape of their denoiser."""

from __future__ import annotations

__all__ = ["open_pipeline", "open_shape"]

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings.hub import is_hub_id
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
    import diffusers
    import torch

    folder = _location(model)
    try:
        parts = diffusers.DiffusionPipeline.load_config(folder)
        if not isinstance(parts, dict):
            raise ValueError(f"{model}: model_index.json is not an object with the model's parts")
        for name in ("unet", "transformer"):
            library, class_name = parts.get(name) or (None, None)
            if library is not None:
                break
        else:
            raise ValueError(f"{model} has no denoiser; its parts are {_parts(parts)}")
        cls = getattr(diffusers, str(class_name), None)
        if library != "diffusers" or cls is None:
            raise ValueError(f"{model}: the denoiser {class_name} is not a class of diffusers")
        config = cls.load_config(folder, subfolder=name)
        factor = 1
        if parts.get("vae"):
            vae = diffusers.AutoencoderKL.load_config(folder, subfolder="vae")
            factor = _pixels_per_cell(vae)
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot read the configuration of {model!r}: {first}") from None
    with torch.device("meta"):
        denoiser = cls.from_config(config)
    return denoiser, factor


def _pixels_per_cell(vae: dict[str, Any]) -> int:
    """How many pixels a side of one latent cell covers.

    Autoencoders differ in how they tell it: as a ratio (HunyuanVideo, Wan, LTX-Video, CogVideoX),
    or by what halves the sides.
    """
    for name in ("spatial_compression_ratio", "scale_factor_spatial"):
        if vae.get(name):
            return int(vae[name])
    if vae.get("spatio_temporal_scaling"):
        return int(int(vae.get("patch_size") or 1) * 2 ** sum(vae["spatio_temporal_scaling"]))
    if vae.get("temperal_downsample"):  # spelt so in Wan and Qwen-Image
        return int(2 ** len(vae["temperal_downsample"]))
    channels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or (0,)
    return int(2 ** (len(channels) - 1))


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


def _location(model: str) -> str:
    """A folder, or the id of a model of the hub."""
    from ..models import available, model_folder

    if model in available():
        return str(model_folder(model))
    if (model and Path(model).is_dir()) or is_hub_id(model):
        return model
    return str(model_folder(model))  # says what there is


def _parts(config: dict[str, Any]) -> str:
    return ", ".join(name for name in config if not name.startswith("_")) or "none"


def _quiet() -> None:
    """Keep the libraries' own progress bars and advice out of this program's output."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for logging in (of_diffusers, of_transformers):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
