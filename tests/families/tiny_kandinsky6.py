"""Tiny Kandinsky 6 pipelines, of videos with sound."""

import functools
from types import SimpleNamespace

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Kandinsky6TI2VAPipeline,
    Kandinsky6Transformer3DModel,
    PiflowScheduler,
)
from tiny_kandinsky5 import video_vae
from tiny_pipelines import noise, picture

WIDTH, POOLED = 16, 24


class Decoder(SimpleNamespace):
    """What the pipeline asks of what makes sound of latents, without a network."""


class FlowMatchEuler(FlowMatchEulerDiscreteScheduler):
    """The sound's scheduler is a copy of the video's, and not guided by tests that patch that."""

    def __deepcopy__(self, memo):
        return FlowMatchEulerDiscreteScheduler.from_config(self.config)


def sharpened(denoiser):
    """Attention far from uniform, of queries and keys that are normalised."""
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith(("to_query.weight", "to_key.weight", "to_value.weight")):
                parameter *= 3
            if name.endswith(("query_norm.weight", "key_norm.weight")):
                parameter *= 2
    return with_sharp_attention(denoiser)


@functools.cache
def transformer(points=1):
    torch.manual_seed(0)
    return sharpened(
        Kandinsky6Transformer3DModel(
            in_visual_dim=4,
            out_visual_dim=4 * points,
            in_text_dim=WIDTH,
            in_text_dim2=POOLED,
            time_dim=16,
            model_dim=32,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=4,
            axes_dims=(4, 6, 6),
            in_audio_dim=3,
            out_audio_dim=3 * points,
            # As the released models.
            text_token_padding=True,
            ca_rope=True,
            cross_gates=True,
            fix_modulation=True,
            visual_token_type_num_embeddings=2,
        )
    )


class Kandinsky6OfPrompts(Kandinsky6TI2VAPipeline):
    """Embeddings come with masks, as those of prompts of different lengths do."""

    def encode_prompt(self, *args, **kwargs):
        found = list(super().encode_prompt(*args, **kwargs))
        for place in (2, 5):
            if found[place - 2] is not None:
                found[place] = torch.ones(found[place - 2].shape[:2], dtype=torch.bool)
                found[place][1, -2:] = False
        return tuple(found)


def kandinsky6(scheduler=None, **changes):
    return Kandinsky6OfPrompts(
        vae=video_vae(),
        transformer=transformer(**changes),
        scheduler=scheduler or FlowMatchEuler(shift=5.0),
        audio_vae=Decoder(config=SimpleNamespace(sample_rate=100), latent_hop_length=5),
        vocoder=Decoder(),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    )


def prompts(prefix, length, seed):
    return {
        f"{prefix}prompt_embeds": noise(2, length, WIDTH, seed=seed),
        f"{prefix}pooled_prompt_embeds": noise(2, POOLED, seed=seed + 1),
    }


def case(name, pipeline, grid, **arguments):
    return Case(
        name,
        pipeline,
        {**prompts("", 5, 2), "height": 64, "width": 96, "guidance_scale": 1.0, **arguments},
        {
            f"visual_transformer_blocks.{n}.video_dec_block.self_attention": Image(grid)
            for n in (1, 2)
        },
        # The negative prompt has another length.
        cfg={**prompts("negative_", 7, 4), "guidance_scale": 5.0},
        scale=5.0,
        separate=True,
    )


# 9 frames of 64 x 96 pixels: latents of 3 x 8 x 12.
CASES = [case("Kandinsky 6", kandinsky6, (3, 4, 6), num_frames=9)]
MORE = [
    case(
        "Kandinsky 6, image to video",
        kandinsky6,
        (3, 4, 6),
        num_frames=9,
        image=picture(64, 96, seed=6, count=2),
    ),
    case("Kandinsky 6, without sound", kandinsky6, (3, 4, 6), num_frames=9, sample_audio=False),
]
# Several velocities for each step, between which the scheduler goes by itself.
FEW_STEPS = case(
    "Kandinsky 6, distilled",
    functools.partial(kandinsky6, PiflowScheduler(n_grid=2), points=2),
    (3, 4, 6),
    num_frames=9,
    sample_audio=False,
)
