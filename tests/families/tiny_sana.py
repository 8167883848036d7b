"""A tiny Sana pipeline.

There is no brute force of blurred queries to compare with: its attention is linear.
"""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer(**changes):
    torch.manual_seed(0)
    return with_sharp_attention(
        SanaTransformer2DModel(
            sample_size=16,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            attention_head_dim=8,
            num_attention_heads=4,
            num_cross_attention_heads=4,
            cross_attention_head_dim=8,
            cross_attention_dim=32,
            caption_channels=WIDTH,
            **changes,
        )
    )


def sana(cls=SanaPipeline, *, model=None, **components):
    without = {"text_encoder": None, "tokenizer": None, "vae": None}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return cls(transformer=model or transformer(), scheduler=scheduler, **without, **components)


def sprint():
    """Distilled: the scale of guidance is an input of the denoiser."""
    without = {"text_encoder": None, "tokenizer": None, "vae": None}
    model = transformer(guidance_embeds=True)
    return SanaSprintPipeline(transformer=model, scheduler=SCMScheduler(), **without)


ARGUMENTS = {
    "prompt": None,
    "negative_prompt": None,
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "prompt_attention_mask": torch.ones(2, 5),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "negative_prompt_attention_mask": torch.ones(2, 5),
    "height": 384,
    "width": 256,
    "use_resolution_binning": False,
    "guidance_scale": 1.0,
}
# Latents of 12 x 8: Sana's autoencoder shrinks by 32, and a patch is one of them.
GRID = (12, 8)

CASES = [
    Case(
        "Sana",
        sana,
        ARGUMENTS,
        {f"transformer_blocks.{n}.attn1": Image(GRID) for n in (1, 2)},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
    ),
]
SPRINT = Case(
    "Sana-Sprint",
    sprint,
    {name: value for name, value in ARGUMENTS.items() if not name.startswith("negative")}
    | {"guidance_scale": 4.5},
    CASES[0].images,
)
