"""A tiny Bria Fibo 2 pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    BriaFibo2Pipeline,
    BriaFibo2Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        BriaFibo2Transformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=3,
            n_refiner_layers=2,
            n_heads=2,
            cap_feat_dim=WIDTH,
            injection_layer_ids=(1,),
            perceiver_num_layers=1,
            min_num_gist_tokens=4,
            max_num_gist_tokens=8,
            gist_step=2,
            gist_min_text_len=2,
            gist_max_text_len=10,
            axes_dims=(4, 6, 6),
            axes_lens=(32, 32, 32),
        )
    )


def bria_fibo2():
    without = dict.fromkeys(("vae", "text_encoder", "processor"))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return BriaFibo2Pipeline(transformer=transformer(), scheduler=scheduler, **without)


def words(*lengths):
    return torch.stack([torch.arange(10) < length for length in lengths])


def case(name, lengths, negative_lengths, start):
    return Case(
        name,
        bria_fibo2,
        {
            "prompt_embeds": noise(2, 2, 10, WIDTH, seed=2),
            "prompt_embeds_mask": words(*lengths),
            "negative_prompt_embeds": noise(2, 2, 10, WIDTH, seed=3),
            "negative_prompt_embeds_mask": words(*negative_lengths),
            "height": 96,
            "width": 64,
            "guidance_scale": 1.0,
        },
        dict.fromkeys(("layers.1.attention", "layers.2.attention"), Image((6, 4), start)),
        cfg={"guidance_scale": 4.0},
        scale=4.0,
        separate=True,
    )


# Five or six words are six tokens, which come first, and ten are eight.
CASES = [case("Bria Fibo 2", (5, 6), (6, 6), 6)]
DIFFERENT = case("Bria Fibo 2, long and short prompts", (5, 10), (10, 2), 0)
