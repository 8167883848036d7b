"""A tiny Ideogram 4 pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
)
from tiny_pipelines import noise

WIDTH, LENGTH = 16, 7


@functools.cache
def transformer(seed=0):
    torch.manual_seed(seed)
    denoiser = Ideogram4Transformer2DModel(
        in_channels=16,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=32,
        adaln_dim=16,
        llm_features_dim=WIDTH,
        mrope_section=(4, 2, 2),
    )
    # Random gates are nearly closed.
    with torch.no_grad():
        for layer in denoiser.layers:
            layer.adaln_modulation.bias += 1
    return with_sharp_attention(denoiser)


class OfPrompts(Ideogram4Pipeline):
    """Prompts of five and three tokens, without the words."""

    def encode_prompt(self, prompt, grid_h, grid_w, max_sequence_length, device):
        features = noise(2, max_sequence_length + grid_h * grid_w, WIDTH, seed=2)
        return features, *self._prepare_ids([5, 3], grid_h, grid_w, max_sequence_length, device)


def ideogram4():
    return OfPrompts(
        transformer=transformer(),
        unconditional_transformer=transformer(seed=1),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **dict.fromkeys(("vae", "text_encoder", "tokenizer")),
    )


# Tokens of 6 x 4.
CASES = [
    Case(
        "Ideogram 4",
        ideogram4,
        {
            "prompt": ["a lighthouse", "a dog"],
            "height": 96,
            "width": 64,
            "guidance_schedule": None,
            "guidance_scale": 4.0,
            "max_sequence_length": LENGTH,
            "mu": 2.5,  # as much noise as in large pictures
        },
        {f"layers.{n}.attention": Image((6, 4), LENGTH) for n in (1, 2)},
        # There always is CFG.
        cfg={},
        scale=4.0,
        separate=True,
        sent=lambda prediction: -prediction[:, -24:],
        unconditional="unconditional_transformer",
    )
]
