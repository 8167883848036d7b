"""Several guidances, steps, and the replay of the stem: all equal brute force."""

import contextlib

import pytest
import torch
from brute_force_guidance import Term
from tiny_pipelines import (
    DOWN,
    MID,
    UP,
    XL_MID,
    assert_guided_as_by_brute_force,
    cfg,
    guidance_for,
    latents_of,
    prompts,
    sd,
    size,
    xl,
    xl_mid_grids,
    xl_prompts,
)

BOTH = (True, False)
PARTS = {
    "down": {DOWN: (12, 8)},
    "mid": {MID: (6, 4)},
    "up": dict.fromkeys(UP, (12, 8)),
}
PARTS["all"] = {**PARTS["down"], **PARTS["mid"], **PARTS["up"]}
XL_PARTS = {
    "down": {
        f"down_blocks.1.attentions.0.transformer_blocks.{index}.attn1": (6, 4) for index in range(2)
    },
    "mid": dict.fromkeys(XL_MID, (6, 4)),
    "up": {
        f"up_blocks.0.attentions.{block}.transformer_blocks.{index}.attn1": (6, 4)
        for block in range(2)
        for index in range(2)
    },
}
XL_PARTS["all"] = {**XL_PARTS["down"], **XL_PARTS["mid"], **XL_PARTS["up"]}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_stable_diffusion_equals_brute_force(part):
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
    term = Term(PARTS[part])
    guidance = guidance_for(term, layers=part)
    assert_guided_as_by_brute_force(pipe, run, term, cfg(5.0), guidances=[guidance], replay=BOTH)


@pytest.mark.parametrize("part", XL_PARTS)
def test_each_part_of_sdxl_equals_brute_force(part):
    pipe = xl()
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=5.0)
    term = Term(XL_PARTS[part])
    guidance = guidance_for(term, layers=part)
    assert_guided_as_by_brute_force(pipe, run, term, cfg(5.0), guidances=[guidance], replay=BOTH)


@pytest.mark.parametrize(
    ("part", "mode"), [("mid", "no_grad"), ("up", "no_grad"), ("up", "inference_mode")]
)
def test_free_u_equals_brute_force(part, mode):
    # FreeU changes the outputs of blocks in place, among them those that the stem recorded.
    context = torch.inference_mode if mode == "inference_mode" else contextlib.nullcontext
    pipe = sd()
    plain_run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)

    def run():
        with context():
            return plain_run()

    without = run()
    pipe.enable_freeu(s1=0.6, s2=0.4, b1=1.5, b2=1.6)
    try:
        assert not torch.equal(run(), without)
        term = Term(PARTS[part])
        guidance = guidance_for(term, layers=part)
        assert_guided_as_by_brute_force(
            pipe, run, term, cfg(5.0), guidances=[guidance], replay=BOTH
        )
    finally:
        pipe.disable_freeu()


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_two_guidances_add_up_to_brute_force(rescale):
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, guidance_rescale=rescale)
    terms = [
        Term(PARTS["mid"], sigma=2.0, scale=3.0),
        Term(PARTS["up"], sigma=0.7, scale=1.5),
    ]
    assert_guided_as_by_brute_force(pipe, run, terms, cfg(5.0, rescale), replay=BOTH)


def test_two_guidances_in_the_same_layers_add_up_to_brute_force():
    pipe = xl()
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=5.0)
    terms = [
        Term(xl_mid_grids(), sigma=0.5, scale=2.0),
        Term(xl_mid_grids(), sigma=float("inf"), scale=1.0),
    ]
    assert_guided_as_by_brute_force(pipe, run, terms, cfg(5.0), replay=BOTH)


def test_guidances_of_both_formulations_at_different_steps_add_up_to_brute_force():
    pipe = sd()
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=5.0, num_inference_steps=4)

    def steps(*indices):
        return lambda time: time in [float(pipe.scheduler.timesteps[i]) for i in indices]

    terms = [
        Term(PARTS["mid"], active=steps(0, 1)),
        Term(PARTS["down"], scale=2.0, branch="u", active=steps(1, 2, 3)),
    ]
    guidances = [
        guidance_for(terms[0], steps="0:0.5"),
        guidance_for(terms[1], steps="0.25:1", formulation="unconditional"),
    ]
    assert_guided_as_by_brute_force(pipe, run, terms, cfg(5.0), guidances=guidances, replay=BOTH)


# At low noise a correction moves the picture little, so its scale is large there.
@pytest.mark.parametrize(
    ("steps", "indices", "scale"),
    [
        ("begin", [0, 1], 10.0),
        ("mid", [2, 3], 50.0),
        ("end", [4, 5], 300.0),
        ("begin+end", [0, 1, 4, 5], 10.0),
        ("every:3", [0, 3], 10.0),
        ("0:0.5", [0, 1, 2], 10.0),
    ],
)
def test_parts_of_the_schedule_equal_brute_force(steps, indices, scale):
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=1.0, num_inference_steps=6)
    term = Term(
        PARTS["mid"],
        scale=scale,
        active=lambda time: time in [float(pipe.scheduler.timesteps[i]) for i in indices],
    )
    guidance = guidance_for(term, steps=steps)
    assert_guided_as_by_brute_force(pipe, run, term, guidances=[guidance])


def test_an_interval_of_noise_levels_equals_brute_force():
    pipe = xl()
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=1.0, num_inference_steps=4)
    run()
    levels = pipe.scheduler.sigmas.tolist()
    low, high = (levels[3] + levels[2]) / 2, (levels[1] + levels[0]) / 2
    term = Term(
        xl_mid_grids(),
        scale=30.0,
        active=lambda time: time in [float(pipe.scheduler.timesteps[i]) for i in (1, 2)],
    )
    guidance = guidance_for(term, steps=f"sigma:{low}:{high}")
    assert_guided_as_by_brute_force(pipe, run, term, guidances=[guidance])
