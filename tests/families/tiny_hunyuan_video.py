"""Tiny HunyuanVideo pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from tiny_pipelines import noise, picture

WIDTH, POOLED = 16, 24


@functools.cache
def transformer(**changes):
    torch.manual_seed(0)
    settings = {"in_channels": 4, "out_channels": 4, **changes}
    return with_sharp_attention(
        HunyuanVideoTransformer3DModel(
            num_layers=2,
            num_single_layers=3,
            num_refiner_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            text_embed_dim=WIDTH,
            pooled_projection_dim=POOLED,
            rope_axes_dim=(4, 6, 6),
            **settings,
        )
    )


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4
    ).eval()


def hunyuan_video(cls=HunyuanVideoPipeline, *, denoiser=None, **components):
    names = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2")]
    settings = {"vae": None, **dict.fromkeys(names), **components}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return cls(transformer=denoiser or transformer(), scheduler=scheduler, **settings)


# The second prompt is shorter.
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "pooled_prompt_embeds": noise(2, POOLED, seed=4),
    "prompt_attention_mask": MASK,
    "height": 96,
    "width": 64,
    "num_frames": 9,
    # An input of the denoiser, and no CFG.
    "guidance_scale": 6.0,
}
CFG = {
    "true_cfg_scale": 4.0,
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "negative_pooled_prompt_embeds": noise(2, POOLED, seed=5),
    "negative_prompt_attention_mask": MASK,
}
# Latents of 3 x 12 x 8; the text comes after their tokens.
VIDEO = Image((3, 6, 4))

CASES = [
    Case(
        "HunyuanVideo",
        hunyuan_video,
        ARGUMENTS,
        {"transformer_blocks.1.attn": VIDEO, "single_transformer_blocks.1.attn": VIDEO},
        cfg=CFG,
        scale=4.0,
        separate=True,
    ),
]


def from_picture(kind, in_channels):
    """The first frame is given: in more channels, or in the place of the first frame."""
    names = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")
    cfg = {name: value[:1] for name, value in CFG.items() if name != "true_cfg_scale"}
    return Case(
        f"HunyuanVideo, {kind}",
        lambda: hunyuan_video(
            HunyuanVideoImageToVideoPipeline,
            denoiser=transformer(image_condition_type=kind, in_channels=in_channels),
            vae=vae(),
            image_processor=None,
        ),
        {**ARGUMENTS, **{name: ARGUMENTS[name][:1] for name in names}, "image": picture(seed=6)},
        CASES[0].images,
        cfg={"true_cfg_scale": 4.0, **cfg},
        scale=4.0,
        separate=True,
        sent=(lambda p: p[:, :, 1:]) if kind == "token_replace" else (lambda p: p),
    )


MORE = [from_picture("latent_concat", 2 * 4 + 1), from_picture("token_replace", 4)]
