"""The dual of SEG: blurred keys, by their definition softmax(Q K^T B^T) V."""

import math

import pytest
from brute_force_guidance import Term
from tiny_pipelines import (
    DOWN,
    assert_guided_as_by_brute_force,
    cfg,
    guidance_for,
    latents_of,
    mid_grids,
    prompts,
    sd,
    size,
    xl,
    xl_mid_grids,
    xl_prompts,
)


@pytest.mark.parametrize("sigma", [0.7, 2.0, math.inf])
@pytest.mark.parametrize("grids", [mid_grids(), {DOWN: (12, 8)}], ids=["mid", "down"])
def test_stable_diffusion_with_blurred_keys_equals_brute_force(sigma, grids):
    pipe = sd()
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=5.0)
    term = Term(grids, sigma=sigma, on="key")
    guidance = guidance_for(term, on="key")
    assert guidance.from_json(guidance.to_json()) == guidance
    assert_guided_as_by_brute_force(
        pipe, run, term, cfg(5.0), guidances=[guidance], replay=(True, False)
    )


def test_queries_and_keys_at_once_equal_brute_force():
    pipe = xl()
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=5.0)
    terms = [Term(xl_mid_grids()), Term(xl_mid_grids(), on="key", scale=2.0)]
    guidances = [guidance_for(term, on=term.on) for term in terms]
    assert_guided_as_by_brute_force(pipe, run, terms, cfg(5.0), guidances=guidances)


def test_another_side_is_refused():
    with pytest.raises(ValueError, match=r"on='value'.*'query', 'key'"):
        guidance_for(Term(mid_grids()), on="value")
