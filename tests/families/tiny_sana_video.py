"""A tiny Sana-Video pipeline, whose attention is linear."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        SanaVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=WIDTH,
            sample_size=8,
            rope_max_seq_len=32,
        )
    )


def sana_video():
    without = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return SanaVideoPipeline(transformer=transformer(), scheduler=scheduler, **without)


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ARGUMENTS = {
    "negative_prompt": None,
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "prompt_attention_mask": MASK,
    "negative_prompt_attention_mask": MASK.flip(0),
    "height": 64,
    "width": 96,
    "frames": 9,
    "use_resolution_binning": False,
    "guidance_scale": 1.0,
}
IMAGES = {f"transformer_blocks.{n}.attn1": Image((3, 4, 6)) for n in (1, 2)}

CASES = [Case("Sana-Video", sana_video, ARGUMENTS, IMAGES, cfg={"guidance_scale": 6.0}, scale=6.0)]
