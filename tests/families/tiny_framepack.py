"""A tiny HunyuanVideo Framepack pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
)
from tiny_hunyuan_video import ARGUMENTS as HUNYUAN
from tiny_hunyuan_video import CFG, POOLED, WIDTH, vae
from tiny_pipelines import noise, picture

SEEN = 8


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        HunyuanVideoFramepackTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_single_layers=3,
            num_refiner_layers=1,
            text_embed_dim=WIDTH,
            pooled_projection_dim=POOLED,
            rope_axes_dim=(4, 6, 6),
            has_image_proj=True,
            image_proj_dim=SEEN,
            has_clean_x_embedder=True,
        )
    )


def framepack():
    names = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2")]
    without = dict.fromkeys((*names, "image_encoder", "feature_extractor"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    pipe = HunyuanVideoFramepackPipeline(
        transformer=transformer(), vae=vae(), scheduler=scheduler, **without
    )
    pipe.encode_image = lambda image, device: noise(1, 3, SEEN, seed=7)
    return pipe


def one(arguments):
    tensors = {name: value[:1] for name, value in arguments.items() if hasattr(value, "shape")}
    return {**arguments, **tensors}


ARGUMENTS = {
    **one(HUNYUAN),
    "image": picture(seed=6),
    "latent_window_size": 3,
}
# Latents of 3 x 12 x 8. Before them: 2 frames, 2 in halves, 16 in quarters, padded.
VIDEO = Image((3, 6, 4), 2 * 6 * 4 + 3 * 2 + 4 * 2 * 1)

CASES = [
    Case(
        "HunyuanVideo Framepack",
        framepack,
        ARGUMENTS,
        {"transformer_blocks.1.attn": VIDEO, "single_transformer_blocks.1.attn": VIDEO},
        cfg=one(CFG),
        scale=4.0,
        separate=True,
    )
]
