"""Tiny LTX-2 pipelines, of a video with sound."""

import functools
from types import SimpleNamespace

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LTX2ImageToVideoPipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from tiny_pipelines import noise

WIDTH, CHANNELS = 24, 8
# 17 frames of 128 x 192 pixels; the autoencoder shrinks them to 3 x 4 x 6.
GRID = (3, 4, 6)


class FlowMatchEuler(FlowMatchEulerDiscreteScheduler):
    """The sound's scheduler is a copy of the video's, and not guided by tests that patch that."""

    def __deepcopy__(self, memo):
        return FlowMatchEulerDiscreteScheduler.from_config(self.config)


class Autoencoder(SimpleNamespace):
    """What a pipeline asks of an autoencoder, without a network."""


class Connectors:
    """What becomes of the text for video and sound, without a network."""

    def __call__(self, embeds, mask, padding_side):
        return embeds, embeds.flip(-1), mask


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        LTX2VideoTransformer3DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            audio_in_channels=8,
            audio_out_channels=8,
            audio_num_attention_heads=2,
            audio_attention_head_dim=12,
            audio_cross_attention_dim=24,
            num_layers=4,
            caption_channels=WIDTH,
            # As in LTX-2.3.
            gated_attn=True,
            audio_gated_attn=True,
            cross_attn_mod=True,
            audio_cross_attn_mod=True,
            perturbed_attn=True,
        )
    )


def autoencoder(**more):
    statistics = {"latents_mean": torch.zeros(8), "latents_std": torch.ones(8)}
    return Autoencoder(**statistics, **more)


def ltx2(cls=LTX2Pipeline):
    return cls(
        scheduler=FlowMatchEuler(),
        vae=autoencoder(
            spatial_compression_ratio=32,
            temporal_compression_ratio=8,
            config=SimpleNamespace(scaling_factor=1.0),
        ),
        audio_vae=autoencoder(
            mel_compression_ratio=4,
            temporal_compression_ratio=4,
            config=SimpleNamespace(
                sample_rate=16000, mel_hop_length=160, mel_bins=8, latent_channels=4
            ),
        ),
        connectors=Connectors(),
        transformer=transformer(),
        text_encoder=None,
        tokenizer=None,
        vocoder=None,
    )


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
    "audio_guidance_scale": 1.0,
    # Its guidance of its own is off.
    "stg_scale": 0.0,
    "audio_stg_scale": 0.0,
    "modality_scale": 1.0,
    "audio_modality_scale": 1.0,
    "guidance_rescale": 0.0,
    "audio_guidance_rescale": 0.0,
}
IMAGES = {f"transformer_blocks.{n}.attn1": Image(GRID) for n in (1, 2)}
CFG = {"guidance_scale": 5.0, "audio_guidance_scale": 7.0}
# Each is another guidance of the pipeline's own.
OWN = {
    "stg_scale": 1.0,
    "audio_stg_scale": 1.0,
    "spatio_temporal_guidance_blocks": [3],
    "modality_scale": 3.0,
    "audio_modality_scale": 3.0,
    "guidance_rescale": 0.7,
    "audio_guidance_rescale": 0.7,
}


def without_first_frame(prediction):
    """What an image-to-video pipeline sends to the scheduler, `(B, C, F - 1, H, W)`."""
    return prediction.unflatten(1, GRID).permute(0, 4, 1, 2, 3)[:, :, 1:]


CASES = [Case("LTX-2", ltx2, ARGUMENTS, IMAGES, cfg=CFG, scale=5.0)]
MORE = [
    Case(
        "LTX-2, image to video",
        lambda: ltx2(LTX2ImageToVideoPipeline),
        {
            **ARGUMENTS,
            "image": noise(1, 3, 128, 192, seed=4),
            "latents": noise(2, CHANNELS, *GRID, seed=5),
        },
        IMAGES,
        cfg=CFG,
        scale=5.0,
        sent=without_first_frame,
    )
]
