"""A tiny Kolors pipeline: a U-Net like SDXL's whose text is projected first."""

import functools
import importlib.util

from brute_force_attention import Case, Image
from diffusers import EulerDiscreteScheduler, KolorsPipeline
from tiny_pipelines import XL_MID, new_xl_unet, noise, vae

WIDTH, POOLED = 24, 40


@functools.cache
def unet():
    return new_xl_unet(
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_proj",
        projection_class_embeddings_input_dim=6 * 8 + POOLED,
    )


def kolors(cls=KolorsPipeline, **components):
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.014, beta_schedule="scaled_linear", steps_offset=1
    )
    without = {"text_encoder": None, "tokenizer": None}
    return cls(vae=vae(), unet=unet(), scheduler=scheduler, **without, **components)


ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "pooled_prompt_embeds": noise(2, POOLED, seed=4),
    "negative_pooled_prompt_embeds": noise(2, POOLED, seed=5),
    "height": 96,
    "width": 64,
    "guidance_scale": 1.0,
}

# diffusers has Kolors only where its tokenizer's library is.
CASES = [
    Case(
        "Kolors",
        kolors,
        ARGUMENTS,
        dict.fromkeys(XL_MID, Image((6, 4))),
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        denoiser="unet",
    ),
]
if importlib.util.find_spec("sentencepiece") is None:
    CASES.clear()
