"""A tiny Mochi pipeline, with prompts of different lengths."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        MochiTransformer3DModel(
            patch_size=2,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=4,
            pooled_projection_dim=16,
            in_channels=4,
            text_embed_dim=WIDTH,
            time_embed_dim=4,
        )
    )


def mochi():
    without = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return MochiPipeline(transformer=transformer(), scheduler=scheduler, **without)


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "prompt_attention_mask": MASK,
    "negative_prompt_attention_mask": MASK.flip(0),
    "height": 64,
    "width": 96,
    "num_frames": 13,
    "guidance_scale": 1.0,
}
IMAGES = {f"transformer_blocks.{n}.attn1": Image((3, 4, 6)) for n in (1, 2)}

CASES = [Case("Mochi", mochi, ARGUMENTS, IMAGES, cfg={"guidance_scale": 4.0}, scale=4.0)]
