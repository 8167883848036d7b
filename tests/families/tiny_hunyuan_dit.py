"""Tiny HunyuanDiT pipelines, of version 1.1 and of version 1.2."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import DDIMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from tiny_pipelines import noise, vae

WIDTH, T5_WIDTH = 32, 16
SETTINGS = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "cross_attention_dim": WIDTH,
    "cross_attention_dim_t5": T5_WIDTH,
    "pooled_projection_dim": 16,
    "text_len": 5,
    "text_len_t5": 6,
}


@functools.cache
def transformer(style=True):
    torch.manual_seed(0)
    return with_sharp_attention(
        HunyuanDiT2DModel(num_layers=4, use_style_cond_and_image_meta_size=style, **SETTINGS)
    )


def hunyuan_dit(cls=HunyuanDiTPipeline, *, style=True, **components):
    without = ["text_encoder", "tokenizer", "safety_checker", "feature_extractor"]
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        clip_sample=False,
    )
    return cls(
        vae=vae(),
        transformer=transformer(style),
        scheduler=scheduler,
        requires_safety_checker=False,
        **dict.fromkeys(without),
        **components,
    )


def prompts(count=2):
    """Embeddings of both text encoders, half of the texts shorter than the others."""
    made = {}
    for seed, (kind, width, length) in enumerate([("", WIDTH, 5), ("_2", T5_WIDTH, 6)]):
        mask = torch.ones(count, length)
        mask[::2, 3:] = 0
        for sign, prefix in enumerate(["", "negative_"]):
            embeds = noise(count, length, width, seed=2 + 2 * seed + sign)
            made[f"{prefix}prompt_embeds{kind}"] = embeds
            made[f"{prefix}prompt_attention_mask{kind}"] = mask
    return made


ARGUMENTS = {
    **prompts(),
    "height": 96,
    "width": 64,
    "use_resolution_binning": False,
    "guidance_scale": 1.0,
}
IMAGES = {f"blocks.{n}.attn1": Image((6, 4)) for n in (1, 3)}
SCALE = 5.0


def rescaled(combined, c, part=0.7):
    """Lin et al. 2023, section 3.4."""
    axes = tuple(range(1, c.ndim))
    matched = combined * c.std(axes, keepdim=True) / combined.std(axes, keepdim=True)
    return part * matched + (1 - part) * combined


def without_variance(prediction):
    return prediction.chunk(2, dim=1)[0]


def case(family, pipeline, **more):
    cfg = {"guidance_scale": SCALE} | more.pop("cfg", {})
    return Case(
        family, pipeline, ARGUMENTS, IMAGES, cfg=cfg, scale=SCALE, sent=without_variance, **more
    )


CASES = [
    case("HunyuanDiT", hunyuan_dit),
    case("HunyuanDiT 1.2", functools.partial(hunyuan_dit, style=False)),
    case("HunyuanDiT rescaled", hunyuan_dit, cfg={"guidance_rescale": 0.7}, normalised=rescaled),
]
