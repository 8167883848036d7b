"""Guidance of LTX-2."""

import math
from contextlib import contextmanager

import pytest
import torch
from brute_force_attention import _explicitly
from comparison import assert_guided_as_by_brute_force, run_of
from diffusers import LTX2DFRPipeline
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_ltx2 import CASES, CFG, IMAGES, MORE, OWN, transformer
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise

from smoothed_energy import GuidanceInterval, SmoothedEnergyGuidance
from smoothed_energy.families import Arguments, family_of

CASE = CASES[0]
BLOCK = "transformer_blocks.1"
SCALE = 3.0


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(sigma):
    assert_guided_as_by_brute_force(CASE, sigma=sigma, temporal=1.0)


@pytest.mark.parametrize("case", [CASE, *MORE], ids=lambda case: case.family)
def test_with_cfg(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_skipped_and_shuffled():
    both = ("hidden_states", "audio_hidden_states")
    assert_skipped_as_by_hand(CASE, f"{BLOCK}.attn1", "block", BLOCK, *both)
    assert_skipped_as_by_hand(CASE, f"{BLOCK}.attn1", "attention", f"{BLOCK}.attn1", both[0])
    assert_shuffled_as_by_hand(CASE, f"{BLOCK}.attn1")


@contextmanager
def by_hand(pipe):
    r"""A block in which the scheduler gets guided videos, with all other guidance of the pipeline.

    $x_0$ of all is $c + (g-1)(c-u) + s(c-c_s) + (m-1)(c-c_m) + \gamma(c-\tilde c)$, and then
    rescaled by $c$.
    """
    forward, step = pipe.transformer.forward, pipe.scheduler.step
    calls, kinds = [], []

    def recorded(*args, **kwargs):
        output = forward(*args, **kwargs)
        calls.append((kwargs["hidden_states"], output[0].double()))
        kinds.append(len(output[0]))
        if len(calls) == 1:
            with _explicitly(pipe.transformer, IMAGES, 1.0, 0.0):
                calls.append((None, forward(*args, **kwargs)[0].double()))
        return output

    def combined(model_output, timestep, sample, **kwargs):
        (_, both), (_, perturbed), (_, c_s), (_, c_m) = calls
        calls.clear()
        sigma = pipe.scheduler.sigmas[pipe.scheduler.index_for_timestep(timestep)]
        clean = [sample - sigma * v for v in (*both.chunk(2), perturbed.chunk(2)[1], c_s, c_m)]
        u, c, c_p, c_s, c_m = clean
        parts = [(CFG["guidance_scale"] - 1, u), (OWN["stg_scale"], c_s)]
        parts += [(OWN["modality_scale"] - 1, c_m), (SCALE, c_p)]
        total = c + sum(scale * (c - other) for scale, other in parts)
        deviations = [x.flatten(1).std(1)[:, None, None] for x in (c, total)]
        part = OWN["guidance_rescale"]
        total = part * total * deviations[0] / deviations[1] + (1 - part) * total
        guided = ((sample - total) / sigma).to(model_output.dtype)
        return step(guided, timestep, sample, **kwargs)

    pipe.transformer.forward, pipe.scheduler.step = recorded, combined
    try:
        yield kinds
    finally:
        del pipe.transformer.forward, pipe.scheduler.step


def test_beside_guidance_of_the_pipeline():
    pipe = CASE.pipeline()
    run = run_of(pipe, CASE, cfg=True, **OWN)
    plain = run()
    with by_hand(pipe) as kinds:
        expected = run()
    assert kinds == 2 * [4, 2, 2]
    assert difference(plain, expected) > MARGIN * TOLERANCE
    guidance = SmoothedEnergyGuidance(blur="gaussian:1,temporal=0", scale=SCALE, layers="b1,b2")
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay) as attachment:
            assert difference(run(), expected) < TOLERANCE
        assert attachment.last_run.calls == 2
    assert torch.equal(run(), plain)


@pytest.mark.parametrize("cfg", [{}, {"audio_guidance_scale": 7.0}])
@pytest.mark.parametrize("own", ["stg_scale", "modality_scale"])
def test_guidance_of_the_pipeline_needs_cfg(cfg, own):
    pipe = CASE.pipeline()
    changes = {own: 2.0, "spatio_temporal_guidance_blocks": [3], **cfg}
    with (
        SmoothedEnergyGuidance(layers="mid").attach(pipe),
        pytest.raises(RuntimeError, match="expected guidance_scale above 1"),
    ):
        run_of(pipe, CASE, **changes)()


def test_cfg_of_the_sound_alone():
    pipe = CASE.pipeline()
    guidance = SmoothedEnergyGuidance(layers="mid")
    results = []
    for changes in ({}, {"audio_guidance_scale": 7.0}):
        run = run_of(pipe, CASE, num_inference_steps=1, **changes)
        with guidance.attach(pipe):
            results.append(run())
    # At the first step the sound does not matter to the video.
    assert difference(*results) < TOLERANCE


def test_an_interval_takes_cfg_of_both_away():
    pipe = CASE.pipeline()
    with GuidanceInterval("0.99:1").attach(pipe):
        alone = run_of(pipe, CASE, cfg=True)()
    assert difference(alone, run_of(pipe, CASE)()) < TOLERANCE


def test_the_prediction_of_the_sound_stays_as_it_is():
    given = {
        "hidden_states": noise(2, 72, 8, seed=1),
        "audio_hidden_states": noise(2, 6, 8, seed=2),
        "encoder_hidden_states": noise(2, 5, 24, seed=3),
        "audio_encoder_hidden_states": noise(2, 5, 24, seed=4),
        "timestep": torch.tensor([300.0, 300.0]),
        "sigma": torch.tensor([300.0, 300.0]),
        "audio_num_frames": 6,
        **dict(zip(("num_frames", "height", "width"), (3, 4, 6), strict=True)),
    }
    with torch.no_grad():
        plain = transformer()(**given)
        with SmoothedEnergyGuidance(layers="mid").attach(transformer()) as attachment:
            attachment.step(0, 1)
            guided = transformer()(**given)
    assert difference(plain.sample, guided.sample) > MARGIN * TOLERANCE
    assert torch.equal(plain.audio_sample, guided.audio_sample)


def test_tokens_after_those_of_the_video_stay_as_they_are():
    family = family_of(transformer())
    given = {"hidden_states": torch.zeros(2, 80, 8), "num_frames": 3, "height": 4, "width": 6}
    image = family.tokens(transformer(), Arguments(given.get), f"{BLOCK}.attn1", 80)
    assert (image.grid, image.slice) == ((3, 4, 6), slice(0, 72))


def test_keyframes_in_tiles_are_refused():
    pipe = object.__new__(LTX2DFRPipeline)
    vars(pipe)["transformer"] = transformer()
    with pytest.raises(RuntimeError, match="make no one grid"):
        SmoothedEnergyGuidance(layers="mid").attach(pipe)
