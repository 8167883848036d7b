"""Tiny Flux 2 pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinInpaintPipeline,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from PIL import Image as Picture
from tiny_pipelines import mask, noise, picture

WIDTH = 16


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKLFlux2(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8] * 4,
        norm_num_groups=4,
        latent_channels=4,
    ).eval()


@functools.cache
def transformer(*, guidance_embeds=False):
    torch.manual_seed(0)
    denoiser = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    # Random gates are nearly closed.
    with torch.no_grad():
        denoiser.single_stream_modulation.linear.weight *= 5
    return with_sharp_attention(denoiser)


def flux2(cls=Flux2KleinPipeline, **more):
    return cls(
        vae=vae(),
        transformer=transformer(guidance_embeds=cls is Flux2Pipeline),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=None,
        tokenizer=None,
        **more,
    )


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "height": 96,
    "width": 64,
    "guidance_scale": 1.0,
}
CFG = {"guidance_scale": 4.0, "negative_prompt_embeds": noise(2, 7, WIDTH, seed=3)}
# Latents of 12 x 8, tokens of 6 x 4; five tokens of text come before.
IMAGE = Image((6, 4), 5)
LAYERS = ("transformer_blocks.1.attn", "single_transformer_blocks.1.attn")
REFERENCE = Picture.effect_noise((64, 80), 90).convert("RGB")


def case(name, pipeline, cfg=CFG, **arguments):
    return Case(
        name,
        pipeline,
        {**ARGUMENTS, **arguments},
        dict.fromkeys(LAYERS, IMAGE),
        cfg=cfg,
        scale=4.0,
        separate=True,
        # What comes after the image is dropped.
        sent=lambda prediction: prediction[:, :24],
    )


CASES = [case("Flux 2, Klein", flux2)]
MORE = [
    # Klein's references and masks; all others have no CFG.
    case("Klein with a reference", flux2, image=[REFERENCE]),
    case(
        "Klein, inpainting",
        functools.partial(flux2, Flux2KleinInpaintPipeline),
        image=picture(),
        mask_image=mask(),
        strength=0.7,
        num_inference_steps=3,
    ),
]
WITHOUT_CFG = [
    case("Flux 2", functools.partial(flux2, Flux2Pipeline), None, guidance_scale=3.5),
    case("Klein, distilled", functools.partial(flux2, is_distilled=True), None, guidance_scale=3.5),
    case("Klein with cached references", functools.partial(flux2, Flux2KleinKVPipeline), None),
]
for without in WITHOUT_CFG[2:]:
    del without.arguments["guidance_scale"]
