"""Tiny Kandinsky 3 pipelines."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import Kandinsky3Img2ImgPipeline, Kandinsky3Pipeline, Kandinsky3UNet
from tiny_kandinsky2 import movq
from tiny_pipelines import ddim, noise

WIDTH = 16
# Latents of 8 x 16, at the second of two levels halved.
GRID = (4, 8)
DOWN = "down_blocks.1.attentions.0.attention"
UP = "up_blocks.0.attentions.0.attention"


@functools.cache
def unet():
    torch.manual_seed(0)
    model = Kandinsky3UNet(
        time_embedding_dim=16,
        groups=4,
        attention_head_dim=8,
        layers_per_block=2,
        block_out_channels=(16, 32),
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
    )
    return with_sharp_attention(model, factor=4.0)


def kandinsky3(cls=Kandinsky3Pipeline):
    without = {"tokenizer": None, "text_encoder": None}
    return cls(unet=unet(), scheduler=ddim(), movq=movq(), **without)


# The second prompt is shorter.
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "attention_mask": MASK,
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "negative_attention_mask": MASK.flip(0),
    "guidance_scale": 1.0,
}


def case(family, cls, **arguments):
    return Case(
        family,
        functools.partial(kandinsky3, cls),
        {**ARGUMENTS, **arguments},
        {DOWN: Image(GRID), UP: Image(GRID)},
        cfg={"guidance_scale": 3.0},
        scale=4.0,
        denoiser="unet",
    )


CASES = [case("Kandinsky 3", Kandinsky3Pipeline, height=64, width=128)]
MORE = [
    case(
        "Kandinsky 3, from pictures",
        Kandinsky3Img2ImgPipeline,
        image=torch.rand(2, 3, 16, 32, generator=torch.Generator().manual_seed(4)),
        strength=1.0,
    )
]
