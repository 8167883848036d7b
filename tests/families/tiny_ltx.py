"""Tiny LTX-Video pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from tiny_pipelines import noise

WIDTH, CHANNELS = 16, 8
# 17 frames of 128 x 192 pixels; the autoencoder shrinks them to 3 x 4 x 6.
GRID = (3, 4, 6)


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        LTXVideoTransformer3DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            num_layers=4,
            caption_channels=WIDTH,
        )
    )


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKLLTXVideo(
        latent_channels=CHANNELS,
        block_out_channels=[8] * 4,
        decoder_block_out_channels=[8] * 4,
        layers_per_block=[1] * 5,
        decoder_layers_per_block=[1] * 5,
    ).eval()


def ltx(cls=LTXPipeline, **changes):
    components = {
        "vae": None,
        "transformer": transformer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": None,
        "tokenizer": None,
    }
    return cls(**{**components, **changes})


def image_to_video():
    return ltx(LTXImageToVideoPipeline)


def with_conditions():
    return ltx(LTXConditionPipeline, vae=vae())


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "prompt_attention_mask": MASK,
    "negative_prompt_attention_mask": MASK.flip(0),
    "height": 128,
    "width": 192,
    "num_frames": 17,
    "guidance_scale": 1.0,
}
IMAGES = {f"transformer_blocks.{n}.attn1": Image(GRID) for n in (1, 2)}
RESCALE = 0.7


def rescaled(combined, conditional):
    """Equation 16 of Lin et al. 2023."""
    deviations = [part.flatten(1).std(1)[:, None, None] for part in (conditional, combined)]
    return (RESCALE * deviations[0] / deviations[1] + 1 - RESCALE) * combined


def without_first_frame(prediction):
    """What an image-to-video pipeline sends to the scheduler, `(B, C, F - 1, H, W)`."""
    return prediction.unflatten(1, GRID).permute(0, 4, 1, 2, 3)[:, :, 1:]


CASES = [
    Case(
        "LTX-Video",
        ltx,
        ARGUMENTS,
        IMAGES,
        cfg={"guidance_scale": 5.0},
        scale=5.0,
    ),
    Case(
        "LTX-Video, rescaled",
        ltx,
        ARGUMENTS,
        IMAGES,
        cfg={"guidance_scale": 5.0, "guidance_rescale": RESCALE},
        scale=5.0,
        normalised=rescaled,
    ),
    Case(
        "LTX-Video, image to video",
        image_to_video,
        {
            **ARGUMENTS,
            "image": noise(1, 3, 128, 192, seed=4),
            "latents": noise(2, 72, CHANNELS, seed=5),
        },
        IMAGES,
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        sent=without_first_frame,
    ),
    Case(
        "LTX-Video, conditions",
        with_conditions,
        {**ARGUMENTS, "image": noise(1, 3, 128, 192, seed=4).clamp(0, 1), "num_inference_steps": 4},
        IMAGES,
        cfg={"guidance_scale": 5.0, "guidance_rescale": RESCALE},
        scale=5.0,
        sent=torch.neg,
        normalised=rescaled,
    ),
]
