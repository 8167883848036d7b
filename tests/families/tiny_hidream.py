"""A tiny HiDream pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)
from tiny_flux import vae
from tiny_pipelines import noise

T5, LLAMA, POOLED = 12, 16, 24


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=[T5, LLAMA],
            text_emb_dim=POOLED,
            axes_dims_rope=(4, 6, 6),
            max_resolution=(12, 12),
            llama_layers=[0, 1, 2, 2],
        )
    )


def hidream():
    others = [
        f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", *["_2", "_3", "_4"])
    ]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = HiDreamImagePipeline(
        vae=vae(), transformer=transformer(), scheduler=scheduler, **dict.fromkeys(others)
    )
    # Pictures are made as large as this says, and not as large as somebody asks for.
    pipe.default_sample_size = 9.8
    return pipe


def embeddings(start, seed):
    return {
        f"{start}_embeds_t5": noise(2, 5, T5, seed=seed),
        f"{start}_embeds_llama3": noise(3, 2, 4, LLAMA, seed=seed + 1),
    }


ARGUMENTS = {
    **embeddings("prompt", 2),
    **embeddings("negative_prompt", 4),
    "pooled_prompt_embeds": noise(2, POOLED, seed=6),
    "negative_pooled_prompt_embeds": noise(2, POOLED, seed=7),
    "height": 96,
    "width": 64,
    "guidance_scale": 1.0,
}
LAYERS = ("double_stream_blocks.1.block.attn1", "single_stream_blocks.1.block.attn1")


def case(name, height=96, grid=(6, 4)):
    return Case(
        name,
        hidream,
        {**ARGUMENTS, "height": height},
        # Of 36 tokens with their padding, unless the picture is square.
        dict.fromkeys(LAYERS, Image(grid)),
        cfg={"guidance_scale": 4.0},
        scale=4.0,
        sent=torch.neg,
    )


CASES = [case("HiDream")]
SQUARE = case("HiDream, square", 64, (4, 4))
