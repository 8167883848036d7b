"""Scales that change over the steps, in whole runs."""

import pytest
from brute_force_guidance import Term
from tiny_pipelines import (
    assert_guided_as_by_brute_force,
    cfg,
    guidance_for,
    latents_of,
    mid_grids,
    prompts,
    sd,
    size,
)


@pytest.mark.parametrize("scale", ["linear:4:1", "cosine:4:0", "table:3:1"])
def test_every_step_has_its_own_scale(scale):
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, num_inference_steps=4)
    pipe.scheduler.set_timesteps(4)
    times = pipe.scheduler.timesteps.tolist()
    term = Term(mid_grids())
    guidance = guidance_for(term, scale=scale)
    assert guidance.from_json(guidance.to_json()) == guidance
    expected = {"linear:4:1": [4, 3, 2, 1], "cosine:4:0": [4, 3, 1, 0], "table:3:1": [3, 3, 1, 1]}
    terms = [
        Term(mid_grids(), scale=value, active=lambda now, time=time: float(now) == time)
        for value, time in zip(expected[scale], times, strict=True)
    ]
    assert_guided_as_by_brute_force(pipe, run, terms, cfg(5.0), guidances=[guidance])
