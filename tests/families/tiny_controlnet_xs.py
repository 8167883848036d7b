"""Tiny ControlNet-XS pipelines: a U-Net and a ControlNet in one denoiser."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    ControlNetXSAdapter,
    StableDiffusionControlNetXSPipeline,
    StableDiffusionXLControlNetXSPipeline,
    UNetControlNetXSModel,
)
from tiny_pipelines import new_unet, new_xl_unet, picture, prompts, sd, xl, xl_prompts

MID = "mid_block.base_midblock.attentions.0.transformer_blocks.0.attn1"
UP = "up_blocks.1.attentions.1.transformer_blocks.0.attn1"
DOWN = "down_blocks.0.base_attentions.1.transformer_blocks.0.attn1"


def with_control(unet):
    torch.manual_seed(1)
    adapter = ControlNetXSAdapter.from_unet(
        unet, size_ratio=0.5, conditioning_embedding_out_channels=(8, 8, 8, 8)
    )
    # Attention is sharp already; the zeroed convolutions are not, or nothing is controlled.
    return with_sharp_attention(UNetControlNetXSModel.from_unet(unet, adapter), factor=1.0)


unet = functools.cache(lambda: with_control(new_unet(layers_per_block=2)))
xl_unet = functools.cache(lambda: with_control(new_xl_unet(layers_per_block=2)))
# The pipelines want one, and don't use it.
adapter = functools.cache(lambda: ControlNetXSAdapter.from_unet(new_unet(), size_ratio=0.5))


def of_sd():
    return sd(StableDiffusionControlNetXSPipeline, model=unet(), controlnet=adapter())


def of_xl():
    return xl(StableDiffusionXLControlNetXSPipeline, model=xl_unet(), controlnet=adapter())


CONTROL = {"image": picture(seed=5), "guidance_scale": 1.0}
CFG = {"cfg": {"guidance_scale": 5.0}, "scale": 5.0, "denoiser": "unet"}

CASES = [
    Case("ControlNet-XS", of_sd, {**prompts(), **CONTROL}, {MID: Image((6, 4))}, **CFG),
]
MORE = [
    Case(
        "ControlNet-XS, up",
        of_sd,
        {**prompts(), **CONTROL},
        {DOWN: Image((12, 8)), UP: Image((12, 8))},
        **CFG,
    ),
    Case(
        "ControlNet-XS, SDXL",
        of_xl,
        {**xl_prompts(), **CONTROL},
        {MID: Image((6, 4))},
        **CFG,
    ),
]
