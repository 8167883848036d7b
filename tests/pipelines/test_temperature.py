"""Guidance away from attention of another temperature equals brute force."""

import math

import pytest
from brute_force_guidance import Term
from tiny_pipelines import (
    UP,
    assert_guided_as_by_brute_force,
    cfg,
    latents_of,
    mid_grids,
    prompts,
    sd,
    size,
)

from smoothed_energy.methods import EntropyRectifyingGuidance


@pytest.mark.parametrize("temperature", [0.5, 4.0])
@pytest.mark.parametrize("grids", [mid_grids(), dict.fromkeys(UP, (12, 8))], ids=["mid", "up"])
def test_a_constant_temperature(temperature, grids):
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
    term = Term(grids, sigma=0, temperature=temperature)
    guidance = EntropyRectifyingGuidance(layers=list(grids), temperature=temperature)
    assert_guided_as_by_brute_force(
        pipe, run, term, cfg(5.0), guidances=[guidance], replay=(True, False)
    )


@pytest.mark.parametrize(
    ("text", "fractions"),
    [
        ("linear:9", [1, 0.75, 0.5, 0.25]),
        ("cosine:9", [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
        ("exponential:9", [1, math.exp(-1.25), math.exp(-2.5), math.exp(-3.75)]),
        ("exponential:9:2", [1, math.exp(-0.5), math.exp(-1), math.exp(-1.5)]),
    ],
)
def test_an_annealed_temperature(text, fractions):
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, num_inference_steps=4)
    pipe.scheduler.set_timesteps(4)
    times = pipe.scheduler.timesteps.tolist()
    terms = [
        Term(
            mid_grids(),
            sigma=0,
            temperature=1 + 8 * fraction,
            active=lambda now, time=time: float(now) == time,
        )
        for fraction, time in zip(fractions, times, strict=True)
    ]
    guidance = EntropyRectifyingGuidance(temperature=text)
    assert guidance.from_json(guidance.to_json()) == guidance
    assert_guided_as_by_brute_force(pipe, run, terms, cfg(5.0), guidances=[guidance])


def test_a_temperature_of_one_is_no_guidance():
    assert EntropyRectifyingGuidance(temperature=1).is_off
    assert EntropyRectifyingGuidance(temperature="linear:1").is_off
    assert not EntropyRectifyingGuidance().is_off


@pytest.mark.parametrize(
    "temperature",
    [0, -1, math.nan, True, "hot", "linear", "linear:2:3", "cosine:0", "sine:2", None],
)
def test_what_is_no_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature=.*expected a finite number > 0"):
        EntropyRectifyingGuidance(temperature=temperature)
