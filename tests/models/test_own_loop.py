"""The example of a loop of one's own gives what the pipeline gives."""

import runpy
from pathlib import Path

import torch

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.models import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_loop.py"


def test_a_loop_of_ones_own_is_guided_as_the_pipeline_is():
    sample = runpy.run_path(str(EXAMPLE))["sample"]
    pipe = load("avatars")
    pipe.set_progress_bar_config(disable=True)
    prompt = "a dylan portrait of someone with red hair"
    guidance = SmoothedEnergyGuidance(blur="gaussian:inf", scale=2.0, steps="begin")

    def whole():
        return pipe(
            prompt,
            guidance_scale=3.0,
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images

    plain = whole()
    with guidance.attach(pipe):
        expected = whole()
    found = sample(pipe, prompt, guidance, 3.0, 3)
    assert (found - expected).abs().max() < 1e-4
    assert (plain - expected).abs().max() > 1e-2
