"""A tiny AuraFlow pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_pipelines import noise, vae

WIDTH = 16


def with_open_gates(denoiser, factor=10.0):
    """What blocks add to their input is not small: else attention changes little in the end."""
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if ".norm1" in name:
                parameter *= factor
    return denoiser


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_open_gates(
        with_sharp_attention(
            AuraFlowTransformer2DModel(
                sample_size=16,
                patch_size=2,
                in_channels=4,
                out_channels=4,
                num_mmdit_layers=2,
                num_single_dit_layers=3,
                attention_head_dim=8,
                num_attention_heads=4,
                joint_attention_dim=WIDTH,
                caption_projection_dim=32,
                pos_embed_max_size=256,
            )
        )
    )


def auraflow(cls=AuraFlowPipeline, **components):
    without = {"text_encoder": None, "tokenizer": None}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.73)
    return cls(vae=vae(), transformer=transformer(), scheduler=scheduler, **without, **components)


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "prompt_attention_mask": torch.ones(2, 5),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "negative_prompt_attention_mask": torch.ones(2, 5),
    "height": 96,
    "width": 64,
    "guidance_scale": 1.0,
}
# Latents of 12 x 8, tokens of 6 x 4, after 8 registers and 5 tokens of text.
IMAGE = Image((6, 4), start=13)

CASES = [
    Case(
        "AuraFlow",
        auraflow,
        ARGUMENTS,
        {
            "joint_transformer_blocks.1.attn": IMAGE,
            "single_transformer_blocks.1.attn": IMAGE,
        },
        cfg={"guidance_scale": 3.5},
        scale=3.5,
    ),
]
