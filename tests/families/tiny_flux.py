"""Tiny Flux pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from tiny_pipelines import noise, picture

WIDTH, POOLED = 16, 24
SETTINGS = {
    "in_channels": 16,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": POOLED,
    "axes_dims_rope": (4, 6, 6),
}


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8] * 4,
        norm_num_groups=4,
        latent_channels=4,
        shift_factor=0.1,
    ).eval()


@functools.cache
def transformer(*, ip_adapter=False):
    torch.manual_seed(0)
    denoiser = FluxTransformer2DModel(
        num_layers=2, num_single_layers=3, guidance_embeds=True, **SETTINGS
    )
    if ip_adapter:
        for block in denoiser.transformer_blocks:
            block.attn.set_processor(FluxIPAdapterAttnProcessor(32, WIDTH))
    return with_sharp_attention(denoiser)


@functools.cache
def controlnet():
    torch.manual_seed(2)
    # Its last layers are zero without with_sharp_attention.
    return with_sharp_attention(
        FluxControlNetModel(num_layers=1, num_single_layers=1, guidance_embeds=True, **SETTINGS)
    )


def flux(cls=FluxPipeline, *, denoiser=None, **components):
    names = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2")]
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    without = dict.fromkeys(names)
    model = denoiser or transformer()
    return cls(vae=vae(), transformer=model, scheduler=scheduler, **without, **components)


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "pooled_prompt_embeds": noise(2, POOLED, seed=4),
    "height": 96,
    "width": 64,
    # An input of the denoiser, and no CFG.
    "guidance_scale": 3.5,
}
CFG = {
    "true_cfg_scale": 4.0,
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "negative_pooled_prompt_embeds": noise(2, POOLED, seed=5),
}
# Latents of 12 x 8, tokens of 6 x 4; five tokens of text come before.
IMAGE = Image((6, 4), 5)


def case(name, pipeline, **arguments):
    return Case(
        name,
        pipeline,
        {**ARGUMENTS, **arguments},
        {"transformer_blocks.1.attn": IMAGE, "single_transformer_blocks.1.attn": IMAGE},
        cfg=CFG,
        scale=4.0,
        separate=True,
        # Kontext drops what comes after the image.
        sent=lambda prediction: prediction[:, :24],
    )


CASES = [
    case("Flux", flux),
    case(
        "Flux Kontext",
        functools.partial(flux, FluxKontextPipeline),
        # Latents of another size: 2 x 6 tokens.
        image=noise(1, 4, 4, 12, seed=6),
        max_area=96 * 64,
    ),
]
MORE = [
    case(
        "Flux, image to image",
        functools.partial(flux, FluxImg2ImgPipeline),
        image=picture(),
        strength=0.7,
        num_inference_steps=3,
    ),
    case(
        "Flux, ControlNet",
        lambda: flux(FluxControlNetPipeline, controlnet=controlnet()),
        control_image=picture(seed=1),
    ),
    case(
        "Flux, IP-Adapter",
        lambda: flux(denoiser=transformer(ip_adapter=True)),
        # What encoder_hid_proj would make of a picture.
        joint_attention_kwargs={"ip_hidden_states": [noise(2, 4, WIDTH, seed=8)]},
    ),
]
