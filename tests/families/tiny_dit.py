"""A tiny DiT pipeline, which is told classes."""

import functools
from types import SimpleNamespace

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import nn


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        DiTTransformer2DModel(
            sample_size=12,
            num_layers=4,
            attention_head_dim=8,
            num_attention_heads=4,
            in_channels=4,
            out_channels=8,
        )
    )


class NoDecoder(nn.Module):
    """Gives latents: the pipeline has no other way to see them. They come out in [0, 1]."""

    config = SimpleNamespace(scaling_factor=6.0)
    device, dtype = torch.device("cpu"), torch.float32

    def decode(self, latents):
        return SimpleNamespace(sample=latents)


def dit():
    return DiTPipeline(transformer=transformer(), vae=NoDecoder(), scheduler=DDIMScheduler())


CASES = [
    Case(
        "DiT",
        dit,
        {"class_labels": [3, 207], "guidance_scale": 1.0, "output_type": "pt"},
        # The denoiser takes squares alone.
        {f"transformer_blocks.{n}.attn1": Image((6, 6)) for n in (1, 2)},
        cfg={"guidance_scale": 4.0},
        scale=4.0,
        order="cu",
        # The rest is a variance; what is sent is there once for each half of the batch.
        sent=lambda prediction: torch.cat([prediction[:, :4]] * 2),
    ),
]
