"""Tiny EasyAnimate pipelines: text before the video, in two kinds of blocks."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimateControlPipeline,
    EasyAnimateInpaintPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_pipelines import noise

WIDTH = 16
TEXT = 5
# Latents of 2 x 8 x 12, of frames 5 x 64 x 96.
GRID = (2, 4, 6)


@functools.cache
def transformer(channels):
    torch.manual_seed(0)
    return with_sharp_attention(
        EasyAnimateTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=channels,
            out_channels=4,
            patch_size=2,
            num_layers=3,
            mmdit_layers=2,
            time_embed_dim=8,
            text_embed_dim=WIDTH,
        )
    )


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKLMagvit(
        latent_channels=4,
        down_block_types=("SpatialDownBlock3D",) + ("SpatialTemporalDownBlock3D",) * 3,
        up_block_types=("SpatialUpBlock3D",) + ("SpatialTemporalUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    ).eval()


class Controlled(EasyAnimateControlPipeline):
    """It gives an argument that its own method does not take."""

    def encode_prompt(self, *args, text_encoder_index=0, **kwargs):
        return super().encode_prompt(*args, **kwargs)


def easyanimate(cls=EasyAnimatePipeline, channels=4):
    return cls(
        vae=vae(),
        transformer=transformer(channels),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=None,
        tokenizer=None,
    )


ARGUMENTS = {
    "prompt_embeds": noise(2, TEXT, WIDTH, seed=2),
    "prompt_attention_mask": torch.ones(2, TEXT),
    "negative_prompt_embeds": noise(2, TEXT, WIDTH, seed=3),
    "negative_prompt_attention_mask": torch.ones(2, TEXT),
    "num_frames": 5,
    "height": 64,
    "width": 96,
    "guidance_scale": 1.0,
}


def case(family, pipeline, block, **arguments):
    return Case(
        family,
        pipeline,
        {**ARGUMENTS, **arguments},
        {f"transformer_blocks.{block}.attn1": Image(GRID, start=TEXT)},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
    )


CASES = [case("EasyAnimate", easyanimate, 1)]
MORE = [
    case("EasyAnimate, one stream", easyanimate, 2),
    case(
        "EasyAnimate, control",
        lambda: easyanimate(Controlled, 12),
        1,
        control_camera_video=noise(2, 4, 5, 8, 12, seed=5),
    ),
    case(
        "EasyAnimate, inpainting",
        lambda: easyanimate(EasyAnimateInpaintPipeline, 9),
        1,
        mask_video=torch.full((1, 1, 5, 64, 96), 255.0),
    ),
]
