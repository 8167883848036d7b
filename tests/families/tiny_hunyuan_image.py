"""Tiny HunyuanImage pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
)
from tiny_pipelines import noise

WIDTH, WIDTH_2 = 16, 12


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_single_layers=2,
            num_refiner_layers=1,
            text_embed_dim=WIDTH,
            text_embed_2_dim=WIDTH_2,
            rope_axes_dim=(8, 8),
        )
    )


def hunyuan_image(guider=None, **more):
    names = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2")]
    return HunyuanImagePipeline(
        vae=None,
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        guider=guider,
        **dict.fromkeys(names),
        **more,
    )


def words(most, *lengths):
    return torch.stack([(torch.arange(most) < length).long() for length in lengths])


def embeddings(start, seed, *lengths):
    return {
        f"{start}_embeds": noise(2, 5, WIDTH, seed=seed),
        f"{start}_embeds_mask": words(5, *lengths),
        f"{start}_embeds_2": noise(2, 4, WIDTH_2, seed=seed + 1),
        f"{start}_embeds_mask_2": words(4, *[length - 2 for length in lengths]),
    }


ARGUMENTS = {
    **embeddings("prompt", 2, 5, 3),
    **embeddings("negative_prompt", 4, 2, 4),
    # Latents of a 32nd: 6 x 4 tokens.
    "height": 192,
    "width": 128,
}
LAYERS = ("transformer_blocks.1.attn", "single_transformer_blocks.1.attn")


def case(name, **guider):
    return Case(
        name,
        functools.partial(hunyuan_image, ClassifierFreeGuidance(**guider) if guider else None),
        ARGUMENTS,
        dict.fromkeys(LAYERS, Image((6, 4))),
        cfg={} if guider else None,
        scale=4.0,
        separate=True,
    )


CASES = [case("HunyuanImage")]
GUIDED = [
    case("HunyuanImage, guider", guidance_scale=4.0),
    case("HunyuanImage, original guider", guidance_scale=3.0, use_original_formulation=True),
]
