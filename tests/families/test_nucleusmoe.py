"""Guidance of NucleusMoE-Image."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_nucleusmoe import CASES

from smoothed_energy import PerturbedAttentionGuidance
from smoothed_energy.intercept.attention import AttentionBackendError

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASE, cfg=True, formulation="unconditional")


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.img_mlp", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)


def test_keys_of_image_and_text_are_refused():
    pipe = CASE.pipeline()
    guidance = PerturbedAttentionGuidance(layers=LAYER)
    with (
        guidance.attach(pipe),
        pytest.raises(AttentionBackendError, match=r"24 .* 29 keys"),
    ):
        run_of(pipe, CASE)()
