"""Tiny AudioLDM, AudioLDM 2 and MusicLDM: U-Nets that draw spectrograms."""

import functools
from types import SimpleNamespace

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2UNet2DConditionModel,
    AudioLDMPipeline,
    MusicLDMPipeline,
)
from tiny_pipelines import MID, TEXT_WIDTH, ddim, new_unet, noise, vae

# In AudioLDM 2 the first transformer has two layers of self-attention in a block.
MID2 = "mid_block.attentions.0.transformer_blocks.0.attn"


@functools.cache
def unet():
    return new_unet(
        cross_attention_dim=(32, 64),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=TEXT_WIDTH,
        class_embeddings_concat=True,
    )


@functools.cache
def unet2():
    torch.manual_seed(0)
    model = AudioLDM2UNet2DConditionModel(
        sample_size=12,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=((None, TEXT_WIDTH, 16),) * 2,
    )
    return with_sharp_attention(model, factor=4.0)


class Vocoder:
    """All that the pipelines ask of what makes a sound of a spectrogram: a pixel is a second."""

    config = SimpleNamespace(upsample_rates=[1], sampling_rate=1, model_in_dim=64)


class Encoder:
    """All that the pipelines ask of a text encoder, where prompts are embedded already."""

    dtype = torch.float32
    text_model = SimpleNamespace(dtype=dtype)
    config = SimpleNamespace(model_type="t5")


class Spectrograms(AudioLDMPipeline):
    """It gives no latents."""

    def decode_latents(self, latents):
        return latents

    def mel_spectrogram_to_waveform(self, spectrogram):
        return spectrogram.flatten(1)


class OfPrompts(AudioLDM2Pipeline):
    """What prompts are embedded as, here random numbers: the second is shorter."""

    def encode_prompt(self, prompt, device, count, do_classifier_free_guidance, *args, **kwargs):
        rows = (2 if do_classifier_free_guidance else 1) * len(prompt)
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).repeat(rows // 2, 1)
        return noise(rows, 4, 16, seed=2), mask, noise(rows, 3, TEXT_WIDTH, seed=3)


def pipeline(cls, model, *names):
    parts = {name: Encoder() if name.startswith("text_encoder") else None for name in names}
    return cls(vae=vae(), unet=model(), scheduler=ddim(), vocoder=Vocoder(), **parts)


def case(family, make, arguments, images=None, **output):
    return Case(
        family,
        make,
        {"audio_length_in_s": 96, "guidance_scale": 1.0, **arguments, **output},
        images or {MID: Image((6, 4))},
        cfg={"guidance_scale": 5.0},
        scale=5.0,
        denoiser="unet",
    )


EMBEDDED = {
    "prompt_embeds": noise(2, TEXT_WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, TEXT_WIDTH, seed=3),
}
PARTS = ("text_encoder", "tokenizer")
CASES = []  # of the family of U-Nets
MORE = [
    case(
        "AudioLDM",
        lambda: pipeline(Spectrograms, unet, *PARTS),
        EMBEDDED,
        output_type="pt",
    ),
    case(
        "MusicLDM",
        lambda: pipeline(MusicLDMPipeline, unet, *PARTS, "feature_extractor"),
        EMBEDDED,
    ),
    case(
        "AudioLDM 2",
        lambda: pipeline(
            OfPrompts,
            unet2,
            *PARTS,
            "text_encoder_2",
            "projection_model",
            "language_model",
            "tokenizer_2",
            "feature_extractor",
        ),
        {"prompt": ["a", "b"]},
        {f"{MID2}{number}": Image((6, 4)) for number in (1, 2)},
    ),
]
