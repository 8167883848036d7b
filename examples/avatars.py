"""The embedded model from Python, unguided and guided at the same seeds; runs anywhere."""

import torch

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.models import load

pipe = load("avatars")
prompt = ""  # or "a personas portrait of someone with a red mohawk", and guidance_scale=3.0


def draw(name: str) -> None:
    """Draw four seeds with whatever is attached to the pipeline."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(4)]
    images = pipe([prompt] * 4, num_inference_steps=8, guidance_scale=1.0, generator=generators)
    for seed, image in enumerate(images.images):
        image.save(f"{name}-{seed}.png")


draw("unguided")
# The wide blur and the scale of 3 that suit SDXL are too much for so small a model.
with SmoothedEnergyGuidance(blur="gaussian:1", scale=0.7, layers=["down", "mid"]).attach(pipe):
    draw("guided")
