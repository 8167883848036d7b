"""A tiny JoyImage-Edit Plus pipeline."""

import functools

import torch
from brute_force_attention import Case, Image
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    JoyImageEditPlusPipeline,
    JoyImageEditPlusTransformer3DModel,
)
from PIL import Image as Picture
from tiny_joyimage import WIDTH, of_class, vae
from tiny_pipelines import noise


@functools.cache
def transformer():
    return of_class(JoyImageEditPlusTransformer3DModel)


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
