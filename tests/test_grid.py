"""The token grids of U-Nets, against the feature maps of real forward passes."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families.layer_selection import self_attention_layers
from smoothed_energy.families.unet_grid import layer_grid, token_grid, token_grids


def conditional(**config):
    defaults = {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(defaults | config)).eval()


def unconditional(**config):
    defaults = {
        "block_out_channels": (16, 16, 16),
        "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DModel(**(defaults | config)).eval()


def observed(denoiser, size):
    """The feature map sizes that the layers really work on, by layer name."""
    grids, tokens = {}, {}

    def see_map(name):
        def hook(module, inputs):
            if inputs[0].ndim == 4:
                grids[name] = tuple(inputs[0].shape[-2:])

        return hook

    def see_tokens(name):
        def hook(module, args, kwargs):
            states = args[0] if args else kwargs["hidden_states"]
            tokens[name] = states.shape[1] if states.ndim == 3 else states.shape[-2:].numel()

        return hook

    hooks = [
        module.register_forward_pre_hook(see_map(name))
        for name, module in denoiser.named_modules()
        if isinstance(module, Transformer2DModel | Attention)
    ] + [
        layer.module.register_forward_pre_hook(see_tokens(layer.name), with_kwargs=True)
        for layer in self_attention_layers(denoiser)
    ]
    sample = torch.zeros(1, denoiser.config.in_channels, *size)
    text = (torch.zeros(1, 3, 8),) if isinstance(denoiser, UNet2DConditionModel) else ()
    with torch.no_grad():
        denoiser(sample, 1, *text)
    for hook in hooks:
        hook.remove()
    # The transformer around a layer sees the map; the layer sees how many tokens that makes.
    return {
        name: (next(grid for owner, grid in grids.items() if name.startswith(owner)), count)
        for name, count in tokens.items()
    }


ODD = [(16, 16), (24, 16), (6, 10), (17, 9), (31, 45), (5, 64), (1, 12), (7, 7)]
EVEN = [(16, 16), (24, 16), (8, 20), (4, 4)]


@pytest.mark.parametrize(
    ("make", "config", "sizes"),
    [
        pytest.param(conditional, {}, ODD, id="stable diffusion"),
        pytest.param(conditional, {"downsample_padding": 0}, ODD[:-2], id="padding 0"),
        pytest.param(conditional, {"mid_block_type": "UNetMidBlock2D"}, ODD, id="plain middle"),
        pytest.param(unconditional, {}, EVEN, id="ddpm"),
        pytest.param(unconditional, {"downsample_padding": 0}, EVEN, id="ddpm, padding 0"),
        pytest.param(
            unconditional,
            {"downsample_type": "resnet", "upsample_type": "resnet"},
            EVEN,
            id="ddpm, resnet",
        ),
        pytest.param(
            unconditional,
            {
                "block_out_channels": (32, 32, 32),
                "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
                "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
            },
            EVEN[:3],
            id="score sde, skips",
        ),
    ],
)
def test_grids_are_those_of_a_real_forward_pass(make, config, sizes):
    denoiser = make(**config)
    layers = {layer.name: layer for layer in self_attention_layers(denoiser)}
    for size in sizes:
        shape = (1, denoiser.config.in_channels, *size)
        seen = observed(denoiser, size)
        assert seen.keys() == layers.keys()
        for name, (grid, tokens) in seen.items():
            assert layer_grid(denoiser, layers[name], shape) == grid
            assert token_grid(denoiser, shape, tokens) == grid


def test_sizes_round_up_or_down_as_the_downsampling_pads():
    assert token_grids(conditional(), (1, 4, 17, 9)) == ((17, 9), (9, 5), (5, 3))
    assert token_grids(conditional(downsample_padding=0), (1, 4, 17, 9)) == (
        (17, 9),
        (8, 4),
        (4, 2),
    )


def test_a_compiled_denoiser_has_the_same_grids():
    denoiser = conditional()
    shape = (2, 4, 12, 20)
    assert token_grids(torch.compile(denoiser), shape) == token_grids(denoiser, shape)


def test_a_count_that_no_level_has_names_the_grids_tried():
    with pytest.raises(GridError, match=r"77 tokens.*16x24; grids tried: 16x24, 8x12, 4x6$"):
        token_grid(conditional(), (1, 4, 16, 24), 77)


def test_a_denoiser_that_is_no_unet_is_refused():
    with pytest.raises(GridError, match="AutoencoderKL"):
        token_grid(AutoencoderKL(block_out_channels=(8,), norm_num_groups=4), (1, 4, 8, 8), 64)


@pytest.mark.parametrize("shape", [(4, 8), (1, 4, 0, 8)])
def test_a_shape_that_is_no_image_is_refused(shape):
    with pytest.raises(GridError, match="not the shape of images"):
        token_grids(conditional(), shape)
