"""Grids of tokens in a U-Net: the H x W behind a row of T of them.

A U-Net flattens feature maps to tokens in row-major order, and a layer sees only how many there
are. The grid follows from the size of the denoiser's input, since every level of the path down
has a size that is known from the one above it:

    n -> ceil(n / 2)     convolution of stride 2 with padding 1 (Stable Diffusion)
    n -> floor(n / 2)    with padding 0, which diffusers pads on one side, or average pooling

The path up returns to the sizes of the path down. Sizes shrink strictly until they are 1 x 1, so
the number of tokens tells the level.
"""

from __future__ import annotations

__all__ = ["layer_grid", "token_grid", "token_grids"]

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias, cast

from torch import nn

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.image_tokens import GridError
from ..intercept.module_call import unwrap

Grid: TypeAlias = "tuple[int, int]"


def token_grids(denoiser: nn.Module, sample_shape: Sequence[int]) -> tuple[Grid, ...]:
    """The grid of every level of a U-Net, from the finest to the coarsest.

    Args:
        denoiser: A ``UNet2DConditionModel`` or ``UNet2DModel``, compiled or not.
        sample_shape: The shape of the denoiser's input, ending in height and width.

    Raises:
        GridError: If the denoiser is not a U-Net, or the shape not that of an image.
    """
    denoiser = unwrap(denoiser)
    blocks = getattr(denoiser, "down_blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise GridError(
            f"the token grid of a {type(denoiser).__name__} is not known; expected a U-Net"
        )
    if len(sample_shape) < 3 or min(sample_shape) < 1:
        raise GridError(f"{tuple(sample_shape)} is not the shape of images; expected (B, C, H, W)")

    grids = [(int(sample_shape[-2]), int(sample_shape[-1]))]
    for block in blocks:
        for halve in _halvings(block):
            height, width = grids[-1]
            grids.append((halve(height), halve(width)))
    return tuple(grids)


def token_grid(denoiser: nn.Module, sample_shape: Sequence[int], tokens: int) -> Grid:
    """The height and width of the grid that a layer's tokens lie on.

    Args:
        denoiser: A ``UNet2DConditionModel`` or ``UNet2DModel``, compiled or not.
        sample_shape: The shape of the denoiser's input, ending in height and width.
        tokens: The number T of tokens that the layer sees.

    Raises:
        GridError: If no level of the denoiser has that many tokens.
    """
    grids = token_grids(denoiser, sample_shape)
    for grid in grids:
        if prod(grid) == tokens:
            return grid
    tried = ", ".join(f"{height}x{width}" for height, width in grids)
    raise GridError(
        f"{tokens} tokens make no grid of this denoiser for an input of "
        f"{grids[0][0]}x{grids[0][1]}; grids tried: {tried}"
    )


def layer_grid(denoiser: nn.Module, layer: SelfAttentionLayer, sample_shape: Sequence[int]) -> Grid:
    """The height and width of the grid that a layer will see, without running the denoiser.

    Args:
        denoiser: The U-Net that the layer is in, compiled or not.
        layer: One of its self-attention layers.
        sample_shape: The shape of the denoiser's input, ending in height and width.

    Raises:
        GridError: As for `token_grids`.
    """
    grids = token_grids(denoiser, sample_shape)
    if layer.part == "mid":
        return grids[-1]
    blocks = cast(nn.ModuleList, unwrap(denoiser).down_blocks)
    # Attention comes before the halving of its block, and block i of the path up works on the
    # same level as the i-th from the end of the path down.
    number = int(layer.name.split(".")[1])
    down = number if layer.part == "down" else len(blocks) - 1 - number
    return grids[sum(len(_halvings(block)) for block in list(blocks)[:down])]


def _halvings(block: nn.Module) -> list[Callable[[int], int]]:
    """What the downsampling layers of a block, if any, do to a size."""
    block = unwrap(block)
    # Blocks with an image skip have both; there the downsampler works on the skip.
    resnet = getattr(block, "resnet_down", None)
    if isinstance(resnet, nn.Module):
        return [_halving(resnet)]
    single = getattr(block, "base_downsamplers", None)  # of ControlNet-XS
    if isinstance(single, nn.Module):
        return [_halving(single)]
    layers = getattr(block, "downsamplers", None)
    return [_halving(layer) for layer in layers] if isinstance(layers, nn.ModuleList) else []


def _halving(layer: nn.Module) -> Callable[[int], int]:
    conv = getattr(layer, "conv", None)
    if isinstance(conv, nn.Conv2d) and tuple(conv.stride) == (2, 2):
        # Downsample2D pads by one at the end when its own padding is 0.
        padding = 2 * int(conv.padding[0]) or 1
        kernel = int(conv.kernel_size[0])
        return lambda size: (size + padding - kernel) // 2 + 1
    return lambda size: size // 2
