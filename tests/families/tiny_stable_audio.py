"""Tiny Stable Audio pipelines: tokens along time, after one or some that are no sound."""

import functools
from types import SimpleNamespace

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    AutoencoderOobleck,
    CosineDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableAudio3AudioToAudioPipeline,
    StableAudio3DiTModel,
    StableAudio3InpaintPipeline,
    StableAudio3Pipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
)
from tiny_pipelines import noise

WIDTH = 16
LENGTH = 20


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        StableAudioDiTModel(
            sample_size=LENGTH,
            in_channels=3,
            out_channels=3,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_attention_heads=2,
            cross_attention_dim=WIDTH,
            time_proj_dim=8,
            global_states_input_dim=2 * WIDTH,
            cross_attention_input_dim=WIDTH,
        )
    )


@functools.cache
def transformer3():
    torch.manual_seed(0)
    model = StableAudio3DiTModel(
        io_channels=4,
        embed_dim=16,
        depth=3,
        num_heads=2,
        cond_token_dim=WIDTH,
        global_cond_dim=WIDTH,
        local_add_cond_dim=5,
        timestep_features_dim=8,
        num_memory_tokens=3,
    )
    return with_sharp_attention(model)


@functools.cache
def vae():
    torch.manual_seed(1)
    return AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=3,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    ).eval()


class Sound(StableAudioPipeline):
    """What a duration is embedded as, here random numbers of its own."""

    def encode_duration(self, start, end, device, has_cfg, batch_size):
        rows = (2 if has_cfg else 1) * batch_size
        return tuple(noise(1, 1, WIDTH, seed=seed).expand(rows, -1, -1) for seed in (5, 6))


class Coder:
    """All that the pipelines ask of an autoencoder for latents."""

    config = SimpleNamespace(sampling_rate=4, latent_dim=4)
    downsampling_ratio = 2


class Projection:
    """All that the pipeline asks of what projects embeddings."""

    config = SimpleNamespace(min_value=0, max_value=512)

    def __call__(self, text_hidden_states):
        return SimpleNamespace(text_hidden_states=text_hidden_states)


class WithCoder:
    """The embedding of a duration, and latents of a sound that is given, are random numbers."""

    def encode_duration(self, duration, device, count, batch_size):
        return noise(batch_size, WIDTH, seed=5)

    def _encode_reference_audio(self, audio, device, length=LENGTH):
        return noise(len(audio), 4, LENGTH, seed=6)


class Sound3(WithCoder, StableAudio3Pipeline):
    """A sound of a prompt."""


class SoundInpainted3(WithCoder, StableAudio3InpaintPipeline):
    """Parts of a sound."""


class SoundChanged3(WithCoder, StableAudio3AudioToAudioPipeline):
    """Another sound."""


def stable_audio():
    return Sound(
        vae=vae(),
        transformer=transformer(),
        scheduler=CosineDPMSolverMultistepScheduler(sigma_max=20.0, solver_order=1),
        projection_model=Projection(),
        **dict.fromkeys(("text_encoder", "tokenizer")),
    )


def stable_audio3(cls=Sound3):
    return cls(
        vae=Coder(),
        transformer=transformer3(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
        **dict.fromkeys(("text_encoder", "duration_embedder", "tokenizer")),
    )


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
PROMPTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "guidance_scale": 1.0,
}
MASKS = {"attention_mask": MASK, "negative_attention_mask": MASK.flip(0)}
MASKS3 = {"encoder_attention_mask": MASK, "negative_encoder_attention_mask": MASK.flip(0)}
CFG = {"cfg": {"guidance_scale": 5.0}, "scale": 5.0}

CASES = [
    Case(
        "Stable Audio",
        stable_audio,
        {**PROMPTS, **MASKS},
        {"transformer_blocks.1.attn1": Image((1, LENGTH), start=1)},
        **CFG,
    ),
    Case(
        "Stable Audio 3",
        stable_audio3,
        {**PROMPTS, **MASKS3, "duration": 10.0},
        {"transformer_blocks.1.self_attn": Image((1, LENGTH), start=3)},
        **CFG,
    ),
]
GIVEN = {
    "prompt_embeds": PROMPTS["prompt_embeds"],
    "encoder_attention_mask": MASK,
    "duration": 10.0,
    "audio": torch.zeros(2, 2, 40),
}
MORE = [
    Case(
        "Stable Audio 3, inpainting",
        lambda: stable_audio3(SoundInpainted3),
        {**GIVEN, "mask_start_seconds": 2.0, "mask_end_seconds": 6.0},
        CASES[-1].images,
    ),
    Case(
        "Stable Audio 3, of a sound",
        lambda: stable_audio3(SoundChanged3),
        GIVEN,
        CASES[-1].images,
    ),
]
