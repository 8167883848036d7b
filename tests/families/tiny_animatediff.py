"""Tiny AnimateDiff pipelines.

Latents of F x 12 x 8, and F x 6 x 4 tokens in the middle.
"""

import functools

import torch
from brute_force_animatediff import FoldedImage
from brute_force_attention import Case
from comparison import with_sharp_attention
from diffusers import AnimateDiffPipeline, MotionAdapter, UNetMotionModel
from tiny_pipelines import ddim, new_unet, prompts, size, vae

FRAMES = 3
GRID = (FRAMES, 6, 4)
MID = "mid_block.attentions.0.transformer_blocks.0.attn1"
MID_MOTION = tuple(f"mid_block.motion_modules.0.transformer_blocks.0.attn{n}" for n in (1, 2))


def motion_adapter():
    torch.manual_seed(3)
    return MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_max_seq_length=8,
    )


def new_motion_unet():
    # Attention over space is sharp already.
    return with_sharp_attention(
        UNetMotionModel.from_unet2d(new_unet(), motion_adapter()), factor=1.5
    )


motion_unet = functools.cache(new_motion_unet)


def animatediff(cls=AnimateDiffPipeline, *, model=None, **components):
    return cls(
        vae=vae(),
        unet=model or motion_unet(),
        motion_adapter=motion_adapter(),
        scheduler=ddim(),
        **{"text_encoder": None, "tokenizer": None, **components},
    )


ARGUMENTS = {**prompts(), **size(), "num_frames": FRAMES, "guidance_scale": 1.0}
CFG = {"guidance_scale": 5.0}

SPATIAL = Case(
    "AnimateDiff",
    animatediff,
    ARGUMENTS,
    {MID: FoldedImage(GRID)},
    cfg=CFG,
    scale=5.0,
    denoiser="unet",
)
MOTION = Case(
    "AnimateDiff, motion modules",
    animatediff,
    ARGUMENTS,
    {name: FoldedImage(GRID, over="time") for name in MID_MOTION},
    cfg=CFG,
    scale=5.0,
    denoiser="unet",
)
CASES = [SPATIAL, MOTION]
