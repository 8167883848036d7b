"""A tiny Krea 2 pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline, Krea2Transformer2DModel
from tiny_pipelines import noise

WIDTH, TAPPED = 16, 3


@functools.cache
def transformer():
    torch.manual_seed(0)
    denoiser = with_sharp_attention(
        Krea2Transformer2DModel(
            in_channels=16,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=32,
            timestep_embed_dim=16,
            text_hidden_dim=WIDTH,
            num_text_layers=TAPPED,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=16,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        )
    )
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if "transformer_blocks" in name and name.endswith(("norm_q.weight", "norm_k.weight")):
                parameter += 1
            if name.endswith("time_mod_proj.bias"):
                parameter += 0.5
    return denoiser


def krea2(**settings):
    return Krea2Pipeline(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        **dict.fromkeys(("vae", "text_encoder", "tokenizer")),
        **settings,
    )


def prompts(prefix, seed):
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    return {
        f"{prefix}prompt_embeds": noise(2, 5, TAPPED, WIDTH, seed=seed),
        f"{prefix}prompt_embeds_mask": mask,
    }


CASES = [
    Case(
        "Krea 2",
        krea2,
        {**prompts("", 2), "height": 96, "width": 64, "guidance_scale": 0.0},
        # Latents of 12 x 8; five tokens of text come before.
        {f"transformer_blocks.{n}.attn": Image((6, 4), 5) for n in (1, 2)},
        cfg={**prompts("negative_", 3), "guidance_scale": 4.5},
        # The pipeline computes c + 4.5 (c - u).
        scale=5.5,
        separate=True,
    ),
]
