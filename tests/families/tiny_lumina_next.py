"""A tiny Lumina-Next pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import FlowMatchEulerDiscreteScheduler, LuminaNextDiT2DModel, LuminaPipeline
from tiny_pipelines import noise, vae

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    denoiser = with_sharp_attention(
        LuminaNextDiT2DModel(
            sample_size=12,
            hidden_size=32,
            num_layers=4,
            num_attention_heads=4,
            num_kv_heads=2,
            multiple_of=16,
            cross_attention_dim=WIDTH,
        )
    )
    # Those of new cross attention are closed.
    with torch.no_grad():
        for layer in denoiser.layers:
            layer.gate.fill_(0.5)
    return denoiser


def lumina_next():
    return LuminaPipeline(
        vae=vae(),
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **dict.fromkeys(("text_encoder", "tokenizer")),
    )


def combined(c, u, g):
    """The pipeline has CFG in three of four channels, and takes c in the last one."""
    return torch.cat([(u + g * (c - u))[:, :3], c[:, 3:]], dim=1)


CASES = [
    Case(
        "Lumina-Next",
        lumina_next,
        {
            "prompt_embeds": noise(2, 5, WIDTH, seed=2),
            "prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
            "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
            "negative_prompt_attention_mask": torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]),
            "height": 96,
            "width": 64,
            "guidance_scale": 1.0,
        },
        # Latents of 12 x 8.
        {f"layers.{n}.attn1": Image((6, 4)) for n in (1, 2)},
        cfg={"guidance_scale": 4.0},
        scale=4.0,
        order="cu",
        combined=combined,
        # The rest is a variance, and the flow is the other way round.
        sent=lambda prediction: -prediction[:, :4],
    ),
]
