"""A tiny ERNIE-Image pipeline, with prompts of different lengths."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    denoiser = ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=4,
        ffn_hidden_size=48,
        in_channels=4,
        out_channels=4,
        text_in_dim=WIDTH,
        rope_axes_dim=(4, 6, 6),
    )
    # The gates of new blocks are closed.
    with torch.no_grad():
        denoiser.adaLN_modulation[-1].bias.normal_(std=0.5)
    return with_sharp_attention(denoiser)


def ernie_image():
    without = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return ErnieImagePipeline(transformer=transformer(), scheduler=scheduler, **without)


ARGUMENTS = {
    "prompt_embeds": [noise(5, WIDTH, seed=2), noise(3, WIDTH, seed=3)],
    "negative_prompt_embeds": [noise(2, WIDTH, seed=4), noise(7, WIDTH, seed=5)],
    # Latents of a 16th: 6 x 4 tokens.
    "height": 96,
    "width": 64,
    "guidance_scale": 1.0,
}
LAYERS = ("layers.1.self_attention", "layers.2.self_attention")
CASES = [
    Case(
        "ERNIE-Image",
        ernie_image,
        ARGUMENTS,
        dict.fromkeys(LAYERS, Image((6, 4))),
        cfg={"guidance_scale": 4.0},
        scale=4.0,
    )
]
