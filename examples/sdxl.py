"""Smoothed energy guidance on Stable Diffusion XL: the three lines, and the same picture without.

Needs a GPU with 12 GB or more, and network access or a local copy of the model.
"""

import torch
from diffusers import StableDiffusionXLPipeline

from smoothed_energy import SmoothedEnergyGuidance

pipe = StableDiffusionXLPipeline.from_pretrained(
    "stabilityai/stable-diffusion-xl-base-1.0", torch_dtype=torch.float16, variant="fp16"
).to("cuda")


def draw(name: str) -> None:
    """Draw the same seed with whatever is attached to the pipeline."""
    generator = torch.Generator("cpu").manual_seed(0)
    image = pipe("a lighthouse at dusk", guidance_scale=5.0, generator=generator).images[0]
    image.save(f"{name}.png")


draw("unguided")

guidance = SmoothedEnergyGuidance(blur="gaussian:10", scale=3.0, layers="mid", steps="all")
with guidance.attach(pipe):
    draw("guided")

# For a third of the cost, guide only the first third of the steps.
with SmoothedEnergyGuidance(blur="gaussian:10", scale=3.0, steps="begin").attach(pipe):
    draw("guided-begin")
