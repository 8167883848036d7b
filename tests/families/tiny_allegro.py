"""A tiny Allegro pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import AllegroPipeline, AllegroTransformer3DModel, DDIMScheduler
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        AllegroTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            cross_attention_dim=24,
            sample_width=12,
            sample_height=8,
            sample_frames=3,
            caption_channels=WIDTH,
        )
    )


def allegro():
    without = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    return AllegroPipeline(transformer=transformer(), scheduler=DDIMScheduler(), **without)


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ARGUMENTS = {
    "negative_prompt": None,
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "prompt_attention_mask": MASK,
    "negative_prompt_attention_mask": MASK.flip(0),
    "height": 64,
    "width": 96,
    "num_frames": 12,
    "guidance_scale": 1.0,
}
IMAGES = {f"transformer_blocks.{n}.attn1": Image((3, 4, 6)) for n in (1, 2)}

CASES = [Case("Allegro", allegro, ARGUMENTS, IMAGES, cfg={"guidance_scale": 7.5}, scale=7.5)]
