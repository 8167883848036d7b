"""Smoothed energy guidance on Z-Image: the same picture without it and with it.

Needs a GPU that the model fits, and network access or a copy of it. Turbo has no CFG, so
there is no negative prompt; this guidance needs none.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ZImagePipeline

from smoothed_energy import SmoothedEnergyGuidance

GUIDANCE = SmoothedEnergyGuidance(blur="gaussian:10", scale=2.0, layers="mid", steps="all")


def draw(pipe: ZImagePipeline, **arguments: Any) -> Any:
    """The picture of one seed, with whatever is attached to the pipeline."""
    generator = torch.Generator("cpu").manual_seed(0)
    return pipe(**arguments, generator=generator).images[0]


def main() -> None:
    """Draw both."""
    pipe = ZImagePipeline.from_pretrained(
        "Tongyi-MAI/Z-Image-Turbo", torch_dtype=torch.bfloat16
    ).to("cuda")
    arguments = {
        "prompt": "a lighthouse at dusk",
        "num_inference_steps": 9,
        "guidance_scale": 0.0,
    }
    draw(pipe, **arguments).save("unguided.png")
    # For a third of the cost: steps="begin", or refresh="early:9" of some thirty steps.
    with GUIDANCE.attach(pipe):
        draw(pipe, **arguments).save("guided.png")


if __name__ == "__main__":
    main()
