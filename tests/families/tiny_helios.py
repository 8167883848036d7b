"""Tiny Helios pipelines."""

import copy
import functools
from dataclasses import dataclass

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
)
from tiny_pipelines import noise
from tiny_wan import vae

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        HeliosTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=4,
            rope_dim=(4, 4, 4),
            is_amplify_history=True,
        )
    )


@functools.cache
def decoder():
    """Gives latents as they are: the pipelines decode them whatever the output is."""
    found = copy.deepcopy(vae())
    found.decode = lambda latents, **options: (latents,)
    return found


def helios(cls=HeliosPipeline, stages=1, **config):
    parts = [part / stages for part in range(stages + 1)]
    return cls(
        transformer=transformer(),
        vae=decoder(),
        scheduler=HeliosScheduler(stages=stages, stage_range=parts),
        text_encoder=None,
        tokenizer=None,
        **config,
    )


@dataclass(frozen=True)
class BySize(Image):
    """A video that is drawn small first: `sizes` are grids by the number of all tokens."""

    sizes: tuple[tuple[int, Image], ...] = ()

    def attention(self, sigma, temporal):
        by_count = {count: image.attention(sigma, temporal) for count, image in self.sizes}
        return lambda query, *rest, **more: by_count[query.shape[-2]](query, *rest, **more)


# Latents of 3 x 8 x 12. Before them: 2 frames, 2 in halves, 4 in quarters, padded.
BEFORE = 2 * 4 * 6 + 1 * 2 * 3 + 1 * 1 * 2
VIDEO = Image((3, 4, 6), BEFORE)
SMALL = Image((3, 2, 3), BEFORE)
PYRAMID = BySize((), sizes=((BEFORE + 72, VIDEO), (BEFORE + 18, SMALL)))

ARGUMENTS = {
    "prompt_embeds": noise(2, 5, WIDTH, seed=2),
    "negative_prompt_embeds": noise(2, 5, WIDTH, seed=3),
    "height": 64,
    "width": 96,
    "num_frames": 9,
    "num_latent_frames_per_chunk": 3,
    "history_sizes": [4, 2, 1],
    "guidance_scale": 1.0,
}


def case(name, pipeline, image=VIDEO, **arguments):
    return Case(
        name,
        pipeline,
        ARGUMENTS | arguments,
        {f"blocks.{n}.attn1": image for n in (1, 2)},
        cfg={"guidance_scale": 4.0},
        scale=4.0,
        separate=True,
    )


CASES = [case("Helios", helios)]
CHUNKS = case("Helios, two chunks", helios, num_frames=18)
STAGES = case(
    "Helios, pyramid",
    functools.partial(helios, HeliosPyramidPipeline, 2),
    PYRAMID,
    pyramid_num_inference_steps_list=[1, 1],
)
