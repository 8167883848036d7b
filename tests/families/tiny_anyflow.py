"""A tiny AnyFlow pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
)
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        AnyFlowTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=4,
            rope_max_seq_len=32,
        )
    )


def anyflow():
    return AnyFlowPipeline(
        transformer=transformer(),
        scheduler=FlowMapEulerDiscreteScheduler(shift=5.0),
        **dict.fromkeys(("vae", "text_encoder", "tokenizer")),
    )


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "height": 64,
    "width": 96,
    "num_frames": 9,
    "guidance_scale": 1.0,
}
CASES = [
    Case(
        "AnyFlow",
        anyflow,
        ARGUMENTS,
        {f"blocks.{n}.attn1": Image((3, 4, 6)) for n in (1, 2)},
        cfg={"negative_prompt_embeds": noise(2, 5, WIDTH, seed=3), "guidance_scale": 4.0},
        scale=4.0,
    )
]
