"""Tiny Stable Diffusion 3 and 3.5 pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tiny_pipelines import noise, vae

WIDTH, POOLED = 16, 24


@functools.cache
def transformer(dual=False):
    torch.manual_seed(0)
    more = {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"} if dual else {}
    return with_sharp_attention(
        SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=POOLED,
            pos_embed_max_size=16,
            **more,
        )
    )


def sd3(cls=StableDiffusion3Pipeline, *, dual=False, **components):
    names = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    without = dict.fromkeys(names)
    return cls(
        vae=vae(), transformer=transformer(dual), scheduler=scheduler, **without, **components
    )


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "pooled_prompt_embeds": noise(2, POOLED, seed=4),
    "negative_pooled_prompt_embeds": noise(2, POOLED, seed=5),
    "height": 96,
    "width": 64,
    "guidance_scale": 1.0,
}
# Latents of 12 x 8, tokens of 6 x 4.
GRID = (6, 4)

CASES = [
    Case(
        "Stable Diffusion 3",
        sd3,
        ARGUMENTS,
        {f"transformer_blocks.{n}.attn": Image(GRID) for n in (1, 2)},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
    ),
    Case(
        "Stable Diffusion 3.5",
        functools.partial(sd3, dual=True),
        ARGUMENTS,
        {
            "transformer_blocks.1.attn": Image(GRID),
            "transformer_blocks.1.attn2": Image(GRID),
        },
        cfg={"guidance_scale": 5.0},
        scale=5.0,
    ),
]
