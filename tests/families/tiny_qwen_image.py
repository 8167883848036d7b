"""Tiny Qwen-Image pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer(**changes):
    torch.manual_seed(0)
    return with_sharp_attention(
        QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
            **changes,
        )
    )


def qwen_image(cls=QwenImagePipeline, **components):
    without = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return cls(transformer=transformer(), scheduler=scheduler, **without, **components)


def normalised(combined, conditional):
    """Every token of the result is as long as that of the conditional prediction."""
    lengths = [prediction.norm(dim=-1, keepdim=True) for prediction in (conditional, combined)]
    return combined * lengths[0] / lengths[1]


# The second prompt is shorter.
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "prompt_embeds_mask": MASK,
    "height": 96,
    "width": 64,
    "true_cfg_scale": 1.0,
}

CASES = [
    Case(
        "Qwen-Image",
        qwen_image,
        ARGUMENTS,
        # Latents of 12 x 8, tokens of 6 x 4; five tokens of text come before.
        {f"transformer_blocks.{n}.attn": Image((6, 4), 5) for n in (1, 2)},
        cfg={
            "true_cfg_scale": 4.0,
            "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
            "negative_prompt_embeds_mask": MASK,
        },
        scale=4.0,
        separate=True,
        normalised=normalised,
    ),
]
