"""A tiny Sana-WM pipeline."""

import functools
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import FlowMatchEulerDiscreteScheduler, SanaWMPipeline, SanaWMTransformer3DModel
from diffusers.models.transformers.transformer_sana_wm import (
    SanaWMSoftmaxAttention,
    SanaWMSoftmaxCamAttention,
)
from PIL import Image as Picture
from tiny_pipelines import noise

WIDTH, CHANNELS = 16, 4


def _without_rounding(forward):
    @functools.wraps(forward)
    def attend(*args, **kwargs):
        with mock.patch.object(torch.Tensor, "bfloat16", lambda tensor: tensor):
            return forward(*args, **kwargs)

    return attend


# The model rounds queries and keys to half their bits, so that two ways to compute the same could
# not be compared.
for _cls in (SanaWMSoftmaxAttention, SanaWMSoftmaxCamAttention):
    _cls.forward = _without_rounding(_cls.forward)


@functools.cache
def transformer():
    torch.manual_seed(0)
    denoiser = SanaWMTransformer3DModel(
        in_channels=CHANNELS,
        num_layers=4,
        hidden_size=32,
        num_attention_heads=2,
        softmax_every_n=2,
        linear_head_dim=16,
        caption_channels=WIDTH,
        mlp_ratio=1.0,
    )
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith((".q_norm.weight", ".k_norm.weight", "q_norm_cam.weight")):
                parameter *= 2
    return with_sharp_attention(denoiser)


class Autoencoder(SimpleNamespace):
    """What the pipeline asks of an autoencoder, without a network."""

    dtype = torch.float32
    spatial_compression_ratio = 8
    temporal_compression_ratio = 8
    latents_mean = torch.zeros(CHANNELS)
    latents_std = torch.ones(CHANNELS)
    config = SimpleNamespace(scaling_factor=1.0)

    def encode(self, video):
        height, width = video.shape[-2:]
        latents = noise(1, CHANNELS, 1, height // 8, width // 8, seed=8)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))


def sana_wm():
    return SanaWMPipeline(
        transformer=transformer(),
        vae=Autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **dict.fromkeys(("tokenizer", "text_encoder")),
    )


def prompts(prefix, seed):
    return {
        f"{prefix}prompt_embeds": noise(1, 1, 5, WIDTH, seed=seed),
        f"{prefix}prompt_attention_mask": torch.tensor([[1, 1, 1, 1, seed % 2]]),
    }


def path():
    """The camera goes forward."""
    places = np.tile(np.eye(4, dtype=np.float32), (17, 1, 1))
    places[:, 2, 3] = np.linspace(0, 1, 17)
    return places


def sent(prediction):
    return -prediction.flatten(2).mT


CASES = [
    Case(
        "Sana-WM",
        sana_wm,
        {
            **prompts("", 2),
            **prompts("negative_", 3),
            "prompt": "",
            "image": Picture.effect_noise((48, 32), 90).convert("RGB"),
            "c2w": path(),
            "intrinsics": [40.0, 40.0, 24.0, 16.0],
            "height": 32,
            "width": 48,
            "num_frames": 17,
            "guidance_scale": 1.0,
        },
        # 3 x 4 x 6 latents, each a token.
        {f"blocks.{n}.attn": Image((3, 4, 6)) for n in (1, 3)},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        sent=sent,
    )
]
