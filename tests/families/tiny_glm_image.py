"""Tiny GLM-Image pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    GlmImagePipeline,
    GlmImageTransformer2DModel,
)
from PIL import Image as Picture
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        GlmImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=2,
            text_embed_dim=WIDTH,
            time_embed_dim=16,
            condition_dim=8,
            prior_vq_quantizer_codebook_size=32,
        )
    )


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8] * 4,
        norm_num_groups=4,
        latent_channels=4,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def glm_image():
    return GlmImagePipeline(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(),
        **dict.fromkeys(("tokenizer", "processor", "text_encoder", "vision_language_encoder")),
    )


def tokens(count, rows=2, seed=4):
    return torch.randint(32, (rows, count), generator=torch.Generator().manual_seed(seed))


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "prior_token_ids": tokens(24),
    "height": 96,
    "width": 64,
    "guidance_scale": 1.0,
}
# Latents of 12 x 8, tokens of 6 x 4; five tokens of text come before.
CASES = [
    Case(
        "GLM-Image",
        glm_image,
        ARGUMENTS,
        {f"transformer_blocks.{n}.attn1": Image((6, 4), 5) for n in (1, 2)},
        cfg={"negative_prompt_embeds": noise(2, 5, WIDTH, seed=3), "guidance_scale": 4.0},
        scale=4.0,
        separate=True,
    )
]
# A picture of 32 x 64 pixels for each prompt, whose keys the pass with the prompt has.
PICTURE = Case(
    "GLM-Image, from pictures",
    glm_image,
    {
        **ARGUMENTS,
        "image": [[Picture.effect_noise((64, 32), 90).convert("RGB")] for _ in range(2)],
        "prior_token_image_ids": list(tokens(8, seed=5)),
        "source_image_grid_thw": [torch.tensor([[1, 2, 4]])] * 2,
    },
    {f"transformer_blocks.{n}.attn1": Image((6, 4), 5, other_keys=True) for n in (1, 2)},
    cfg=CASES[0].cfg,
    scale=4.0,
    separate=True,
    is_step=lambda arguments: arguments["kv_caches"][0].mode != "write",
)
