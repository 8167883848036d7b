"""A tiny LongCat-Audio pipeline: latents with channels last, two calls, a flow that rises."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import LongCatAudioDiTPipeline, LongCatAudioDiTTransformer
from tiny_pipelines import noise
from tiny_stable_audio import Coder

WIDTH = 16
LENGTH = 20


@functools.cache
def transformer():
    torch.manual_seed(0)
    model = LongCatAudioDiTTransformer(
        dit_dim=16, dit_depth=3, dit_heads=2, dit_text_dim=WIDTH, latent_dim=4
    )
    with torch.no_grad():
        for block in model.blocks:
            block.self_attn.q_norm.weight *= 8  # what the query's projection gives has norm 1
        model.proj_out.weight.normal_()
    return with_sharp_attention(model)


class LongSound(LongCatAudioDiTPipeline):
    """What a prompt is embedded as, here random numbers: the second is shorter."""

    def encode_prompt(self, prompt, device):
        seed = 2 if prompt[0] == "a" else 3
        return noise(len(prompt), 5, WIDTH, seed=seed), torch.tensor([5, 3])


def longcat_audio():
    without = {"text_encoder": None, "tokenizer": None}
    return LongSound(vae=Coder(), transformer=transformer(), scheduler=None, **without)


CASES = [
    Case(
        "LongCat-Audio",
        longcat_audio,
        {
            "prompt": ["a", "b"],
            "negative_prompt": ["c", "d"],
            "latents": noise(2, LENGTH, 4, seed=4),
            "guidance_scale": 1.0,
        },
        {"blocks.1.self_attn": Image((1, LENGTH))},
        cfg={"guidance_scale": 2.0},
        scale=2.0,
        separate=True,
    )
]
