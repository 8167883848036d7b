"""The models of ComfyUI that can be guided, and why others can't."""

from __future__ import annotations

__all__ = ["FAMILIES", "denoiser_of"]

import functools
from typing import Any

from torch import nn

from .denoiser import ComfyDenoiser
from .family import ComfyFamily
from .more_transformers import ComfyHiDream, ComfyHunyuanVideo, ComfyLTX, ComfySD3
from .transformers import ComfyChroma, ComfyFlux, ComfyNextDiT, ComfyQwenImage, ComfyWan
from .unet import ComfyUNet
from .units import prediction_kind

#: All families, each with its classes of networks.
FAMILIES: tuple[ComfyFamily, ...] = (
    ComfyUNet(),
    ComfyFlux(),
    ComfyChroma(),
    ComfyQwenImage(),
    ComfyWan(),
    ComfyNextDiT(),
    ComfySD3(),
    ComfyHiDream(),
    ComfyHunyuanVideo(),
    ComfyLTX(),
)


def denoiser_of(model: Any) -> ComfyDenoiser:
    """The denoiser in a model of ComfyUI.

    Args:
        model: ComfyUI's model, not its patcher.

    Raises:
        RuntimeError: If guidance can't be right in it; the message says why.
    """
    network: nn.Module = model.diffusion_model
    # Its class itself: what is derived from it may have other tokens.
    name = type(network).__name__
    family = next((one for one in FAMILIES if name in one.networks), None)
    if "_orig_mod" in network._modules:
        raise RuntimeError(
            "this model is compiled, and what layers compute can't be changed inside of compiled "
            "code; expected a model without torch.compile"
        )
    if family is None:
        known = ", ".join(each for one in FAMILIES for each in one.networks)
        raise RuntimeError(
            f"guidance of a {name} is not known in ComfyUI yet: which of its layers are "
            f"self-attention, and how tokens lie there; expected a model with {known}"
        )
    reason = family.refuse(network)
    if reason:
        raise RuntimeError(f"this {name} can't be guided: {reason}")
    try:
        prediction_kind(model.model_sampling)
    except ValueError as error:
        raise RuntimeError(f"this {name} can't be guided: {error}") from None
    return _class_for(family)(model)


@functools.cache
def _class_for(family: ComfyFamily) -> type[ComfyDenoiser]:
    """The class of the denoisers of a family, which brings it along."""
    return type(f"{family.networks[0]}Denoiser", (ComfyDenoiser,), {"guidance_family": family})
