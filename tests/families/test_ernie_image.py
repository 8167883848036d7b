"""Guidance of ERNIE-Image."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_skipped_as_by_hand
from tiny_ernie_image import CASES, LAYERS

from smoothed_energy import SmoothedEnergyGuidance, TokenPerturbationGuidance
from smoothed_energy.denoisers.image_tokens import GridError

CASE = CASES[0]


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma)


def test_skipped_modules():
    layer = LAYERS[0]
    block = layer.removesuffix(".self_attention")
    assert_skipped_as_by_hand(CASE, layer, "block", block, "hidden_states")
    assert_skipped_as_by_hand(CASE, layer, "attention", layer, "hidden_states")
    assert_skipped_as_by_hand(CASE, layer, "feed-forward", f"{block}.mlp", "hidden_states")


def test_tokens_before_rows_are_not_shuffled():
    pipe = CASE.pipeline()
    with (
        TokenPerturbationGuidance(layers="b1").attach(pipe),
        pytest.raises(GridError, match="tokens before rows"),
    ):
        run_of(pipe, CASE)()


def test_steps_by_the_time_that_the_denoiser_is_told():
    pipe = CASE.pipeline()
    with SmoothedEnergyGuidance(layers="b1", steps="0:0.25").attach(pipe) as attachment:
        run_of(pipe, CASE, num_inference_steps=4)()
    assert attachment.last_run.guided_calls == 1
