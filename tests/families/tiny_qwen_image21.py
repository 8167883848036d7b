"""Tiny pipelines of Qwen-Image 2.1."""

import functools
from types import SimpleNamespace

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from PIL import Image as Picture
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    denoiser = QwenImage21Transformer2DModel(
        in_channels=8,
        out_channels=8,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    # Random gates are nearly closed.
    with torch.no_grad():
        denoiser.modulation[1].weight *= 4
    return with_sharp_attention(denoiser)


class Processor:
    """Makes prompts for the text encoder."""

    tokenizer = SimpleNamespace(encode=lambda text: [9])

    def apply_chat_template(self, *args, **kwargs):
        return [[0]]


class OfPicture(QwenImage21Pipeline):
    """One picture stands between tokens of text, as 3 x 2 of the text encoder's."""

    def encode_prompt(self, image, prompt_embeds, prompt_embeds_mask, **kwargs):
        slots = torch.zeros(prompt_embeds.shape[:2], dtype=torch.bool)
        slots[:, 2:8] = True
        return prompt_embeds, prompt_embeds_mask, slots

    def _encode_vae_image(self, image, generator):
        return noise(1, 8, 1, 6, 4, seed=4)


def qwen_image21(cls=QwenImage21Pipeline):
    return cls(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        processor=Processor(),
        text_encoder=None,
        vae=None,
    )


def prompts(prefix, length, seed):
    # The second prompt is shorter.
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, -2:] = False
    return {
        f"{prefix}prompt_embeds": noise(2, length, WIDTH, seed=seed),
        f"{prefix}prompt_embeds_mask": mask,
    }


CASES = [
    Case(
        "Qwen-Image 2.1",
        qwen_image21,
        {**prompts("", 5, 2), "height": 96, "width": 64},
        # The image's 6 x 4 tokens see those before, which are not among their queries.
        {f"transformer_blocks.{n}.attn": Image((6, 4), queries=24) for n in (1, 2)},
        cfg={**prompts("negative_", 7, 3), "true_cfg_scale": 8.0},
        scale=8.0,
        separate=True,
        sent=lambda prediction: prediction[:, -24:],
    )
]
PICTURE = Case(
    "Qwen-Image 2.1, from a picture",
    lambda: qwen_image21(OfPicture),
    {
        **{name: value[:1] for name, value in prompts("", 10, 2).items()},
        "height": 64,
        "width": 128,
        "image": Picture.new("RGB", (64, 96)),
        "output_resolution": 80,
    },
    {f"transformer_blocks.{n}.attn": Image((4, 8), queries=32) for n in (1, 2)},
    cfg={
        **{name: value[:1] for name, value in prompts("negative_", 12, 3).items()},
        "true_cfg_scale": 8.0,
    },
    scale=8.0,
    separate=True,
    sent=lambda prediction: prediction[:, -32:],
)
