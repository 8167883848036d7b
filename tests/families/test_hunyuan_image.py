"""Guidance of HunyuanImage."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from diffusers import AdaptiveProjectedMixGuidance, ClassifierFreeGuidance
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_hunyuan_image import CASES, GUIDED, LAYERS, hunyuan_image

from smoothed_energy import SmoothedEnergyGuidance

CASE = CASES[0]
DOUBLE, SINGLE = LAYERS
BOTH = ("hidden_states", "encoder_hidden_states")


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(sigma):
    assert_guided_as_by_brute_force(CASE, sigma=sigma)


@pytest.mark.parametrize("case", GUIDED, ids=lambda case: case.family)
def test_guiders(case):
    assert_guided_as_by_brute_force(case, cfg=True)


@pytest.mark.parametrize(
    ("guiders", "message"),
    [
        ({"guider": AdaptiveProjectedMixGuidance()}, "AdaptiveProjectedMixGuidance does more"),
        (
            {
                "guider": ClassifierFreeGuidance(guidance_scale=3.0),
                "ocr_guider": ClassifierFreeGuidance(guidance_scale=5.0),
            },
            "guider and ocr_guider differ",
        ),
    ],
)
def test_guiders_that_are_refused(guiders, message):
    pipe = hunyuan_image(**guiders)
    with (
        pytest.raises(RuntimeError, match=message),
        SmoothedEnergyGuidance(layers="b1").attach(pipe),
    ):
        run_of(pipe, CASE)()


def test_skipped_modules():
    for layer in LAYERS:
        assert_skipped_as_by_hand(CASE, layer, "block", layer.removesuffix(".attn"), *BOTH)
    assert_skipped_as_by_hand(CASE, SINGLE, "attention", SINGLE, *BOTH)
    feed_forward = "transformer_blocks.1.ff"
    assert_skipped_as_by_hand(CASE, DOUBLE, "feed-forward", feed_forward, "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, DOUBLE)
