"""Tiny Wan pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVideoToVideoPipeline,
)
from tiny_pipelines import noise

WIDTH = 16
# 9 frames of 64 x 96 pixels: latents of 3 x 8 x 12.
GRID = (3, 4, 6)


@functools.cache
def transformer(seed=0, channels=4):
    torch.manual_seed(seed)
    return with_sharp_attention(
        WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=channels,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=4,
            rope_max_seq_len=32,
        )
    )


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def wan(cls=WanPipeline, *, vae=None, **changes):
    components = {
        "vae": vae,
        "transformer": transformer(),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        "text_encoder": None,
        "tokenizer": None,
    }
    return cls(**{**components, **changes})


def image_to_video(**changes):
    return wan(
        WanImageToVideoPipeline,
        vae=vae(),
        **{
            "transformer": transformer(channels=12),
            "image_encoder": None,
            "image_processor": None,
            **changes,
        },
    )


def video_to_video():
    return wan(WanVideoToVideoPipeline, vae=vae())


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "height": 64,
    "width": 96,
    "num_frames": 9,
    "guidance_scale": 1.0,
}
IMAGES = {f"blocks.{n}.attn1": Image(GRID) for n in (1, 2)}
PICTURE = noise(1, 3, 64, 96, seed=4).clamp(-1, 1)

CASES = [
    Case(
        "Wan",
        wan,
        ARGUMENTS,
        IMAGES,
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        separate=True,
    ),
    Case(
        "Wan 2.2, 5B",
        # Every token has a timestep.
        functools.partial(wan, expand_timesteps=True),
        ARGUMENTS,
        IMAGES,
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        separate=True,
    ),
    Case(
        "Wan, image to video",
        image_to_video,
        {**ARGUMENTS, "image": PICTURE},
        IMAGES,
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        separate=True,
    ),
]

VIDEO_TO_VIDEO = Case(
    "Wan, video to video",
    video_to_video,
    {
        **{key: value for key, value in ARGUMENTS.items() if key != "num_frames"},
        "prompt_embeds": ARGUMENTS["prompt_embeds"][:1],
        "negative_prompt_embeds": ARGUMENTS["negative_prompt_embeds"][:1],
        "video": noise(1, 9, 3, 64, 96, seed=5).clamp(-1, 1),
        "num_inference_steps": 4,
        "strength": 0.5,
    },
    IMAGES,
    cfg={"guidance_scale": 5.0},
    scale=5.0,
    separate=True,
)
