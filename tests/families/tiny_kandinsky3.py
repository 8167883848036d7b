"""A tiny Kandinsky 3 pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def unet():
    torch.manual_seed(0)
    return with_sharp_attention(
        Kandinsky3UNet(
            time_embedding_dim=16,
            groups=4,
            attention_head_dim=4,
            layers_per_block=2,
            block_out_channels=(16, 16, 16, 16),
            cross_attention_dim=WIDTH,
            encoder_hid_dim=WIDTH,
        ),
        factor=1.5,
    )


def kandinsky3():
    return Kandinsky3Pipeline(
        unet=unet(),
        scheduler=DDPMScheduler(),
        **dict.fromkeys(("tokenizer", "text_encoder", "movq")),
    )


# The second prompt is shorter.
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
# Latents of 24 x 8.
CASES = [
    Case(
        "Kandinsky 3",
        kandinsky3,
        {
            "prompt_embeds": noise(2, 5, WIDTH, seed=2),
            "attention_mask": MASK,
            "height": 192,
            "width": 64,
            "guidance_scale": 1.0,
        },
        {
            "up_blocks.1.attentions.0.attention": Image((6, 2)),
            "up_blocks.2.attentions.0.attention": Image((12, 4)),
        },
        cfg={
            "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
            "negative_attention_mask": MASK,
            "guidance_scale": 3.0,
        },
        scale=4.0,  # one more
        denoiser="unet",
    )
]
