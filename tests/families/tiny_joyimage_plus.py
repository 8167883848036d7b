"""A tiny JoyImage-Edit Plus pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from comparison import with_sharp_attention
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    JoyImageEditPlusPipeline,
    JoyImageEditPlusTransformer3DModel,
)
from PIL import Image as Picture
from tiny_joyimage import vae
from tiny_pipelines import noise

WIDTH = 16


@functools.cache
def transformer():
    torch.manual_seed(0)
    denoiser = with_sharp_attention(
        JoyImageEditPlusTransformer3DModel(
            in_channels=4,
            hidden_size=32,
            num_attention_heads=2,
            text_dim=WIDTH,
            mlp_width_ratio=2,
            num_layers=4,
            rope_dim_list=[4, 6, 6],
        )
    )
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter *= 2
            # The gates of a trained model are open.
            if name.endswith("modulate_table"):
                parameter += 0.5
    return denoiser


class OfPrompts(JoyImageEditPlusPipeline):
    """Prompts are embeddings, without the words."""

    def encode_prompt_multiple_images(self, prompt, images, device, max_sequence_length):
        return prompts(7, 3) if "dog" in prompt[0] else prompts(5, 2)


def joyimage_plus():
    pipe = OfPrompts(
        vae=vae(),
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
        **dict.fromkeys(("text_encoder", "tokenizer", "processor")),
    )
    # It takes none but large pictures.
    pipe.image_processor.get_default_height_width = lambda image, *size: image.size[::-1]
    return pipe


def normalised(combined, c):
    """Every patch of the result is as long as that of the conditional prediction."""
    return combined * (c.norm(dim=2, keepdim=True) / combined.norm(dim=2, keepdim=True))


def prompts(length, seed):
    # The second prompt is shorter.
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, -2:] = 0
    return noise(2, length, WIDTH, seed=seed), mask


def source(width, height):
    return Picture.effect_noise((width, height), 90).convert("RGB")


CASES = [
    Case(
        "JoyImage-Edit Plus",
        joyimage_plus,
        {
            "prompt": ["a lighthouse", "a ship"],
            # Sources of several sizes and numbers: rows are padded.
            "images": [[source(48, 64)], [source(32, 64), source(64, 32)]],
            "height": 96,
            "width": 64,
            "guidance_scale": 1.0,
        },
        {f"double_blocks.{n}.attn": Image((1, 6, 4)) for n in (1, 2)},
        cfg={"negative_prompt": ["a dog", "a dog"], "guidance_scale": 4.0},
        scale=4.0,
        normalised=normalised,
    )
]
