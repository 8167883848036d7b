"""A tiny NucleusMoE-Image pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
)
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    denoiser = with_sharp_attention(
        NucleusMoEImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=4,
            num_key_value_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
            dense_moe_strategy="leave_first_block_dense",
            num_experts=4,
            moe_intermediate_dim=16,
            capacity_factors=2.0,
        )
    )
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith(("norm_q.weight", "norm_k.weight")):
                parameter *= 2
            # Experts are not initialised.
            if ".experts." in name:
                parameter.normal_(std=0.1)
    return denoiser


def nucleusmoe():
    return NucleusMoEImagePipeline(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        **dict.fromkeys(("vae", "text_encoder", "processor")),
    )


def normalised(combined, c):
    """Every token of the result is as long as that of the conditional prediction."""
    return combined * (c.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True))


def prompts(prefix, seed):
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    embeddings = noise(2, 5, WIDTH, seed=seed)
    return {f"{prefix}prompt_embeds": embeddings, f"{prefix}prompt_embeds_mask": mask}


CASES = [
    Case(
        "NucleusMoE",
        nucleusmoe,
        {**prompts("", 2), "height": 96, "width": 64, "guidance_scale": 1.0},
        # Latents of 12 x 8.
        {f"transformer_blocks.{n}.attn": Image((6, 4), other_keys=True) for n in (1, 2)},
        cfg={**prompts("negative_", 3), "guidance_scale": 4.0},
        scale=4.0,
        separate=True,
        sent=torch.neg,
        normalised=normalised,
    ),
]
