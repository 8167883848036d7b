"""A tiny Lumina 2 pipeline, with prompts of different lengths."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
)
from tiny_pipelines import noise, vae

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        Lumina2Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            hidden_size=32,
            num_layers=4,
            num_refiner_layers=2,
            num_attention_heads=4,
            num_kv_heads=2,
            multiple_of=16,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(32, 32, 32),
            cap_feat_dim=WIDTH,
        )
    )


def lumina2(cls=Lumina2Pipeline, **components):
    without = {"text_encoder": None, "tokenizer": None}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
    return cls(vae=vae(), transformer=transformer(), scheduler=scheduler, **without, **components)


def mask(*lengths, most=6):
    return torch.stack([(torch.arange(most) < length).long() for length in lengths])


# The longest prompts are equally long with and without the condition, so that the brute force,
# which knows one place for both, can perturb both.
LENGTHS = (5, 3)
NEGATIVE_LENGTHS = (4, 5)

ARGUMENTS = {
    "prompt_embeds": noise(2, 6, WIDTH, seed=2),
    "prompt_attention_mask": mask(*LENGTHS),
    "negative_prompt_embeds": noise(2, 6, WIDTH, seed=3),
    "negative_prompt_attention_mask": mask(*NEGATIVE_LENGTHS),
    "height": 96,
    "width": 64,
    "guidance_scale": 1.0,
}
GRID = (6, 4)


def normalised(combined, c):
    return combined * (c.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True))


def images(starts):
    return {
        "noise_refiner.1.attn": Image(GRID),
        "layers.1.attn": Image(GRID, starts),
        "layers.2.attn": Image(GRID, starts),
    }


def case(family, **more):
    cfg = {"guidance_scale": 4.0} | more.pop("cfg", {})
    return Case(
        family,
        lumina2,
        ARGUMENTS,
        images(LENGTHS),
        cfg=cfg,
        scale=4.0,
        separate=True,
        sent=torch.neg,
        **more,
    )


CASES = [
    case("Lumina 2", normalised=normalised),
    case("Lumina 2, not normalised", cfg={"cfg_normalization": False}),
]
