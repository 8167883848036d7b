"""Tiny CogView 3 Plus and CogView 4 pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    CogView4ControlPipeline,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_pipelines import noise, picture, vae

WIDTH = 16
SETTINGS = {
    "num_layers": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "out_channels": 4,
    "text_embed_dim": WIDTH,
    "time_embed_dim": 8,
    "condition_dim": 4,
}


@functools.cache
def transformer(cls, channels=4, **changes):
    torch.manual_seed(0)
    return with_sharp_attention(cls(in_channels=channels, **SETTINGS, **changes))


def cogview3():
    return CogView3PlusPipeline(
        vae=vae(),
        transformer=transformer(CogView3PlusTransformer2DModel, pos_embed_max_size=8),
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=4.0
        ),
        **dict.fromkeys(("text_encoder", "tokenizer")),
    )


def cogview4(cls=CogView4Pipeline, channels=4):
    return cls(
        vae=vae(),
        transformer=transformer(CogView4Transformer2DModel, channels, rope_axes_dim=(8, 8)),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        **dict.fromkeys(("text_encoder", "tokenizer")),
    )


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "height": 96,
    "width": 64,
    "guidance_scale": 1.0,
}


def case(name, pipeline, *, separate, **arguments):
    return Case(
        name,
        pipeline,
        {**ARGUMENTS, **arguments},
        # Latents of 12 x 8, tokens of 6 x 4; five tokens of text come before.
        {f"transformer_blocks.{n}.attn1": Image((6, 4), 5) for n in (1, 2)},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        separate=separate,
    )


CASES = [
    case("CogView 3 Plus", cogview3, separate=False),
    case("CogView 4", cogview4, separate=True),
]
CONTROL = case(
    "CogView 4, control",
    functools.partial(cogview4, CogView4ControlPipeline, 8),
    separate=True,
    # The pipeline takes one picture for each row.
    control_image=picture(count=2),
)
