"""Tiny PRX pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    PRXPipeline,
    PRXPixelPipeline,
    PRXTransformer2DModel,
)
from tiny_pipelines import noise, vae

WIDTH = 16


@functools.cache
def transformer(**changes):
    torch.manual_seed(0)
    denoiser = with_sharp_attention(
        PRXTransformer2DModel(
            context_in_dim=WIDTH,
            hidden_size=32,
            mlp_ratio=2,
            num_heads=2,
            depth=4,
            axes_dim=[8, 8],
            **changes,
        )
    )
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith(("norm_q.weight", "norm_k.weight", "norm_added_k.weight")):
                parameter *= 2
    return denoiser


def components():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return {"scheduler": scheduler, **dict.fromkeys(("text_encoder", "tokenizer"))}


def prx():
    return PRXPipeline(transformer=transformer(in_channels=4), vae=vae(), **components())


def prx_pixel():
    denoiser = transformer(in_channels=3, patch_size=4, bottleneck_size=8, resolution_embeds=True)
    return PRXPixelPipeline(transformer=denoiser, **components())


def prompts(prefix, mask, seed):
    return {
        f"{prefix}prompt_embeds": noise(1, 5, WIDTH, seed=seed),
        f"{prefix}prompt_attention_mask": torch.tensor([mask], dtype=torch.bool),
    }


def case(name, pipeline, grid, **more):
    return Case(
        name,
        pipeline,
        {
            # The pipelines fail with CFG for several prompts.
            **prompts("", [1, 1, 1, 1, 0], 2),
            **prompts("negative_", [1, 1, 0, 0, 0], 3),
            "guidance_scale": 1.0,
            "use_resolution_binning": False,
            **more,
        },
        {f"blocks.{n}.attention": Image(grid, other_keys=True) for n in (1, 2)},
        cfg={"guidance_scale": 4.0},
        scale=4.0,
    )


CASES = [case("PRX", prx, (6, 4), height=96, width=64)]
# Patches of 4 x 4 pixels.
PIXELS = case("PRX, pixels", prx_pixel, (8, 16), height=32, width=64)
