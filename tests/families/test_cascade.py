"""Guidance of Stable Cascade and Wuerstchen."""

import dataclasses
import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_cascade import (
    CASES,
    MORE,
    cascade_combined,
    decoder,
    prior,
    wuerstchen_decoder,
    wuerstchen_prior,
)
from tiny_pipelines import TOLERANCE, difference

from smoothed_energy import SlidingWindowGuidance, SmoothedEnergyGuidance
from smoothed_energy.families.layer_selection import self_attention_layers

CASE = pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.family)
DECODER = MORE[1]


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_infinite_sigma_without_cfg():
    assert_guided_as_by_brute_force(CASES[0], sigma=math.inf)


def test_skipped_and_shuffled():
    layer = next(iter(CASES[0].images))
    block = layer.rpartition(".")[0]
    assert_skipped_as_by_hand(CASES[0], layer, "block", block, "hidden_states")
    assert_shuffled_as_by_hand(CASES[0], layer)


def test_the_pipeline_of_both_stages():
    arguments = {"decoder_guidance_scale": 4.0, "output_type": "latent", "prompt": ["a", "b"]}
    guidance = SmoothedEnergyGuidance(layers=list(DECODER.images))
    both = dataclasses.replace(DECODER, arguments=arguments, pipeline=cascade_combined, cfg={})
    results = []
    for case in (DECODER, both):
        pipe = case.pipeline()
        with guidance.attach(pipe) as attachment:
            results.append(run_of(pipe, case, cfg=True)())
        assert attachment.last_run.guided_calls == 2
    assert difference(*results) < TOLERANCE


@pytest.mark.parametrize(
    ("case", "guided"), [(CASES[0], "0:0.5"), (MORE[0], "0:0.5"), (CASES[0], "sigma:1:200")]
)
def test_some_steps(case, guided):
    # The levels of four steps are 100, 2.4, 1 and 0.4.
    pipe = case.pipeline()
    with SmoothedEnergyGuidance(layers="mid", steps=guided).attach(pipe) as attachment:
        run_of(pipe, case, num_inference_steps=4)()
    assert attachment.last_run.guided_calls == (3 if guided.startswith("sigma") else 2)


@pytest.mark.parametrize(
    ("model", "codes", "parts"),
    [
        (prior, ["d0", "d1", "u0", "u1"], ["down", "mid", "mid", "up"]),
        (decoder, ["d0", "u0"], ["mid", "mid"]),
        (wuerstchen_prior, ["b0", "b1", "b2"], ["down", "mid", "up"]),
        (wuerstchen_decoder, ["d0", "u0"], ["mid", "mid"]),
    ],
)
def test_layers(model, codes, parts):
    layers = self_attention_layers(model())
    assert [layer.code for layer in layers] == codes
    assert [layer.part for layer in layers] == parts


def test_windows_of_a_picture_that_is_given_are_refused():
    pipe = DECODER.pipeline()
    with SlidingWindowGuidance().attach(pipe), pytest.raises(ValueError, match="effnet"):
        run_of(pipe, DECODER)()
