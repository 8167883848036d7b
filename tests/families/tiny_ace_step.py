"""A tiny ACE-Step pipeline: blocks that attend in windows and whole, heads that share keys."""

import functools
from types import SimpleNamespace

import torch
from brute_force_attention import Case, Image
from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_pipelines import noise

WIDTH = 16
# 21 latents make 11 tokens, of which the last is not full.
LENGTH = 21


@functools.cache
def transformer():
    torch.manual_seed(0)
    model = AceStepTransformer1DModel(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        in_channels=12,
        audio_acoustic_hidden_dim=4,
        sliding_window=3,
    )
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.norm_q.weight *= 3  # what the query's projection gives has norm 1
    return model.eval()


class Coder:
    """All that the pipeline asks of an autoencoder for latents: one a second."""

    config = SimpleNamespace(sampling_rate=2, downsampling_ratios=(2,))


class Conditions:
    """What prompts and lyrics are embedded as, here random numbers; and what silence is."""

    silence_latent = noise(1, 40, 4, seed=5)
    null_condition_emb = noise(1, 1, WIDTH, seed=6)

    def __call__(self, text_hidden_states, **given):
        return text_hidden_states, None


class OfPrompts(AceStepPipeline):
    """As `Conditions`."""

    def encode_prompt(self, prompt, **given):
        return noise(len(prompt), 5, WIDTH, seed=2), None, None, None


def ace_step():
    return OfPrompts(
        vae=Coder(),
        transformer=transformer(),
        condition_encoder=Conditions(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
        text_encoder=None,
        tokenizer=None,
    )


CASES = [
    Case(
        "ACE-Step",
        ace_step,
        {"prompt": ["a", "b"], "audio_duration": float(LENGTH), "guidance_scale": 1.0},
        {f"layers.{number}.self_attn": Image((1, 11)) for number in (1, 2)},
    )
]
