"""A tiny pipeline of MiniMax Music 3: two windows, from what is to be played to latents."""

import functools

import torch
from as_ordinary import as_ordinary
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import FlowMatchEulerDiscreteScheduler, MiniMaxMusic3Transformer1DModel
from diffusers.modular_pipelines import ModularPipelineBlocks
from diffusers.modular_pipelines.minimax_music3 import denoise
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam
from tiny_pipelines import noise

WIDTH, LENGTH = 6, 20


class Played(ModularPipelineBlocks):
    """What is to be played in each window, which are not joined."""

    model_name = "minimax-music3"
    inputs = [InputParam("conditions", required=True)]  # noqa: RUF012

    def __call__(self, components, block_state, k):
        block_state.condition, block_state.overlap = block_state.conditions[k], 0
        return components, block_state


class Windows(denoise.MiniMaxMusic3ChunkLoopWrapper):
    """Windows one after the other, each with all steps."""

    block_classes = [  # noqa: RUF012
        Played,
        denoise.MiniMaxMusic3ChunkPrepareLatentsStep,
        denoise.MiniMaxMusic3ChunkSetTimestepsStep,
        denoise.MiniMaxMusic3ChunkDenoiseInner,
        denoise.MiniMaxMusic3ChunkUpdateStep,
    ]
    block_names = ["condition", "latents", "timesteps", "denoise_inner", "update"]  # noqa: RUF012


@functools.cache
def transformer():
    torch.manual_seed(0)
    return with_sharp_attention(
        MiniMaxMusic3Transformer1DModel(
            in_channels=4,
            condition_dim=WIDTH,
            num_layers=3,
            num_attention_heads=2,
            attention_head_dim=16,
            ff_inner_dim=32,
            rotary_dim=8,
            fourier_embedding_dim=8,
        ),
        factor=4,
    )


def music():
    return as_ordinary(
        Windows(),
        output="latent_chunks",
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, invert_sigmas=True),
    )


CASES = [
    Case(
        "MiniMax Music 3",
        music,
        {
            "conditions": [noise(1, LENGTH, WIDTH, seed=seed) for seed in (2, 3)],
            "chunk_starts": [0, 0],
            "guidance_scale": 1.0,
        },
        {"transformer_blocks.1.attn": Image((1, LENGTH), 1)},
        cfg={"guidance_scale": 1.7},
        scale=1.7,
        separate=True,
    )
]
