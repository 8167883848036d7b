"""Tiny CogVideoX pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from tiny_pipelines import noise

WIDTH, TEXT = 16, 5


@functools.cache
def transformer(**changes):
    torch.manual_seed(0)
    return with_sharp_attention(
        CogVideoXTransformer3DModel(
            **{
                "num_attention_heads": 2,
                "attention_head_dim": 16,
                "in_channels": 4,
                "out_channels": 4,
                "time_embed_dim": 8,
                "text_embed_dim": WIDTH,
                "num_layers": 4,
                "sample_width": 12,
                "sample_height": 8,
                "sample_frames": 9,
                "max_text_seq_length": TEXT,
                **changes,
            }
        )
    )


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKLCogVideoX(
        down_block_types=["CogVideoXDownBlock3D"] * 4,
        up_block_types=["CogVideoXUpBlock3D"] * 4,
        block_out_channels=[8] * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()


def cogvideox(cls=CogVideoXPipeline, *, vae=None, **changes):
    components = {"vae": vae, "text_encoder": None, "tokenizer": None}
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return cls(transformer=transformer(**changes), scheduler=scheduler, **components)


def image_to_video():
    return cogvideox(
        CogVideoXImageToVideoPipeline,
        vae=vae(),
        in_channels=8,
        use_rotary_positional_embeddings=True,
        ofs_embed_dim=8,
    )


# 9 frames of 64 x 96 pixels: latents of 3 x 8 x 12.
ARGUMENTS = {
    "prompt_embeds": noise(2, TEXT, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, TEXT, WIDTH, seed=3),
    "height": 64,
    "width": 96,
    "num_frames": 9,
    "guidance_scale": 1.0,
}


def images(*grid):
    return {f"transformer_blocks.{n}.attn1": Image(grid, TEXT) for n in (1, 2)}


CASES = [
    Case(
        "CogVideoX",
        cogvideox,
        ARGUMENTS,
        images(3, 4, 6),
        cfg={"guidance_scale": 5.0},
        scale=5.0,
    ),
    Case(
        "CogVideoX 1.5",
        # Three frames of latents become four, two in a token.
        functools.partial(cogvideox, patch_size_t=2, use_rotary_positional_embeddings=True),
        ARGUMENTS,
        images(2, 4, 6),
        cfg={"guidance_scale": 5.0},
        scale=5.0,
    ),
    Case(
        "CogVideoX, image to video",
        image_to_video,
        {
            **ARGUMENTS,
            "prompt_embeds": ARGUMENTS["prompt_embeds"][:1],
            "negative_prompt_embeds": ARGUMENTS["negative_prompt_embeds"][:1],
            "image": noise(1, 3, 64, 96, seed=4).clamp(-1, 1),
        },
        images(3, 4, 6),
        cfg={"guidance_scale": 5.0},
        scale=5.0,
    ),
]
