"""A tiny pipeline of Kandinsky 6 that makes videos larger, tile after tile."""

import functools
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from brute_force_attention import Case, Image
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Kandinsky6SRPipeline,
    Kandinsky6SRTransformer3DModel,
)
from tiny_kandinsky6 import sharpened
from tiny_pipelines import noise

FRAMES, CHANNELS, SMALLER = 2, 4, 4
# A tile of the result has 8 x 8 latents, the least that there can be.
TILE = 8 * SMALLER


@functools.cache
def transformer():
    torch.manual_seed(0)
    return sharpened(
        Kandinsky6SRTransformer3DModel(
            in_visual_dim=CHANNELS,
            out_visual_dim=CHANNELS,
            time_dim=16,
            model_dim=32,
            ff_dim=32,
            num_visual_blocks=2,
            axes_dims=(4, 6, 6),
            tile_sizes=((TILE, TILE),),
        )
    )


class Autoencoder(SimpleNamespace):
    """Each side becomes smaller by 4, without a network."""

    dtype = torch.float32
    spatial_compression_ratio = SMALLER
    temporal_compression_ratio = 1
    config = SimpleNamespace(scaling_factor=1.0)

    def encode(self, video, return_dict):
        latents = F.avg_pool3d(video, (1, SMALLER, SMALLER))
        latents = torch.cat([latents, latents[:, :1]], dim=1)
        return (SimpleNamespace(mode=lambda: latents),)

    def decode(self, latents, return_dict):
        return (latents[:, :3].repeat_interleave(SMALLER, -2).repeat_interleave(SMALLER, -1),)


def kandinsky6_sr():
    return Kandinsky6SRPipeline(
        transformer=transformer(),
        vae=Autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


CASES = [
    Case(
        "Kandinsky 6 SR",
        kandinsky6_sr,
        # Two tiles, which overlap.
        {
            "video": noise(1, FRAMES, 3, TILE // 2, TILE * 3 // 4, seed=3).sigmoid(),
            "resolution_scale": 2,
            "output_type": "pt",
        },
        {"visual_transformer_blocks.1.self_attention": Image((FRAMES, 8, 8))},
    )
]
