"""The shape of a model's denoiser, from its configuration and without its weights."""

from __future__ import annotations

__all__ = ["check_reachable", "open_shape"]

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings.hub import is_hub_id
from .hub import hub_options
from .locations import ModelError, available, is_folder, model_folder

if TYPE_CHECKING:
    from torch import nn


def open_shape(model: str) -> tuple[nn.Module, int]:
    """A model's denoiser without weights, and how many pixels a side of one latent cell covers.

    Raises:
        ValueError: If there is no such model, its denoiser is not of diffusers, or its
            configuration is not what it should be.
    """
    folder = _location(model)
    options = hub_options(folder)  # before what takes seconds to import
    try:
        return _shape(model, folder, options)
    except ModelError:
        raise
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot read the configuration of {model!r}: {first}") from None
    except Exception as error:  # of any kind, for a configuration of any kind
        raise ValueError(
            f"the configuration of {model!r} is not what it should be ({error!r})"
        ) from error


def check_reachable(model: str) -> None:
    """Refuse a model that is not there, or nobody can ask for.

    Raises:
        ValueError: If it is one.
    """
    hub_options(_location(model))


def _shape(model: str, folder: str, options: dict[str, Any]) -> tuple[nn.Module, int]:
    import diffusers
    import torch

    parts = diffusers.DiffusionPipeline.load_config(folder, **options)
    if not isinstance(parts, dict):
        raise ModelError(f"{model}: model_index.json is not an object with the model's parts")
    for name in ("unet", "transformer", "decoder", "prior"):
        library, class_name = parts.get(name) or (None, None)
        if library is not None:
            break
    else:
        raise ModelError(f"{model} has no denoiser; its parts are {_parts(parts)}")
    cls = getattr(diffusers, str(class_name), None)
    if library != "diffusers" or cls is None:
        raise ModelError(f"{model}: the denoiser {class_name} is not a class of diffusers")
    config = cls.load_config(folder, subfolder=name, **options)
    factor = 1
    if parts.get("vae"):
        vae = diffusers.AutoencoderKL.load_config(folder, subfolder="vae", **options)
        factor = _pixels_per_cell(vae)
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


def _location(model: str) -> str:
    """A folder, or the id of a model of the hub."""
    if model in available():
        return str(model_folder(model))
    if (model and is_folder(Path(model))) or is_hub_id(model):
        return model
    return str(model_folder(model))  # says what there is


def _parts(config: dict[str, Any]) -> str:
    return ", ".join(name for name in config if not name.startswith("_")) or "none"
