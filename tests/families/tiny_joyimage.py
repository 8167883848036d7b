"""A tiny JoyImage-Edit pipeline, without a picture to edit and with one."""

import functools

import PIL.Image
import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    JoyImageEditPipeline,
    JoyImageEditTransformer3DModel,
)
from tiny_pipelines import noise, picture

WIDTH = 16


def of_class(cls):
    torch.manual_seed(0)
    denoiser = with_sharp_attention(
        cls(
            in_channels=4,
            hidden_size=32,
            num_attention_heads=2,
            text_dim=WIDTH,
            mlp_width_ratio=2,
            num_layers=4,
            rope_dim_list=[4, 6, 6],
        )
    )
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter *= 2
            # The gates of a trained model are open.
            if name.endswith("modulate_table"):
                parameter += 0.5
    return denoiser


@functools.cache
def transformer():
    return of_class(JoyImageEditTransformer3DModel)


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def joyimage():
    pipe = JoyImageEditPipeline(
        vae=vae(),
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
        **dict.fromkeys(("text_encoder", "tokenizer", "processor")),
    )
    # It takes none but large pictures.
    pipe.vae_image_processor.get_default_height_width = lambda image, *size: size
    return pipe


def normalised(combined, c):
    """The result is as long as the conditional prediction in every place."""
    return combined * (c.norm(dim=2, keepdim=True) / combined.norm(dim=2, keepdim=True))


def prompts(prefix, length, seed):
    return {
        f"{prefix}prompt_embeds": noise(2, length, WIDTH, seed=seed),
        f"{prefix}prompt_embeds_mask": torch.ones(2, length, dtype=torch.long),
    }


def case(name, **arguments):
    return Case(
        name,
        joyimage,
        {**prompts("", 5, 2), "height": 96, "width": 64, "guidance_scale": 1.0, **arguments},
        # Latents of 12 x 8.
        {f"double_blocks.{n}.attn": Image((1, 6, 4)) for n in (1, 2)},
        cfg={**prompts("negative_", 7, 3), "guidance_scale": 4.0},
        scale=4.0,
        separate=True,
        normalised=normalised,
    )


PICTURE = PIL.Image.fromarray((255 * picture(seed=6)[0].permute(1, 2, 0)).byte().numpy())

CASES = [case("JoyImage-Edit", image=[PICTURE])]
WITHOUT_PICTURE = case("JoyImage-Edit, from text")
