"""A tiny PixArt-Sigma pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
from tiny_pipelines import noise, vae

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        PixArtTransformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=4,
            attention_head_dim=8,
            num_attention_heads=4,
            cross_attention_dim=32,
            caption_channels=WIDTH,
            use_additional_conditions=False,
        )
    )


def pixart(cls=PixArtSigmaPipeline, **components):
    without = {"text_encoder": None, "tokenizer": None}
    scheduler = DDIMScheduler(clip_sample=False)
    return cls(vae=vae(), transformer=transformer(), scheduler=scheduler, **without, **components)


ARGUMENTS = {
    "prompt": None,
    "negative_prompt": None,
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "prompt_attention_mask": torch.ones(2, 5),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "negative_prompt_attention_mask": torch.ones(2, 5),
    "height": 96,
    "width": 64,
    "use_resolution_binning": False,
    "guidance_scale": 1.0,
}

CASES = [
    Case(
        "PixArt",
        pixart,
        ARGUMENTS,
        {f"transformer_blocks.{n}.attn1": Image((6, 4)) for n in (1, 2)},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        # The other half of the channels is a variance, which the pipeline drops.
        sent=lambda prediction: prediction.chunk(2, dim=1)[0],
    ),
]
