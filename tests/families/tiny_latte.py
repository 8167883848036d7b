"""A tiny Latte pipeline: blocks of every frame, and blocks over time, in turn."""

import functools

import torch
from brute_force_animatediff import FoldedImage
from brute_force_attention import Case
from comparison import with_sharp_attention
from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel
from tiny_pipelines import noise, vae

WIDTH = 16
GRID = (3, 4, 6)


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        LatteTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=3,
            sample_size=8,
            patch_size=2,
            norm_type="ada_norm_single",
            caption_channels=WIDTH,
            cross_attention_dim=16,
            attention_bias=True,
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            num_embeds_ada_norm=1000,
            activation_fn="gelu-approximate",
            video_length=GRID[0],
        )
    )


def latte():
    without = dict.fromkeys(("tokenizer", "text_encoder"))
    return LattePipeline(vae=vae(), transformer=transformer(), scheduler=DDIMScheduler(), **without)


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt": None,
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "mask_feature": False,
    "video_length": GRID[0],
    "height": 64,
    "width": 96,
    "guidance_scale": 1.0,
}


def case(family, stack, over):
    return Case(
        family,
        latte,
        ARGUMENTS,
        {f"{stack}.1.attn1": FoldedImage(GRID, over=over)},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        # The other half is a variance that the scheduler doesn't read.
        sent=lambda prediction: prediction[:, :4],
    )


CASES = [case("Latte", "transformer_blocks", "space")]
MORE = [case("Latte, over time", "temporal_transformer_blocks", "time")]
