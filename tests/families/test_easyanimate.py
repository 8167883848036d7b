"""Guidance of EasyAnimate."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from fusion_in_places import assert_fused_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_easyanimate import CASES, MORE

from smoothed_energy import SlidingWindowGuidance

CASE = pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.family)
BOTH = ("hidden_states", "encoder_hidden_states")


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True, temporal=1.0)


def test_infinite_sigma_without_cfg():
    assert_guided_as_by_brute_force(CASES[0], sigma=math.inf)


@pytest.mark.parametrize("case", [*CASES, MORE[0]], ids=lambda case: case.family)
def test_skipped_and_shuffled(case):
    (layer,) = case.images
    assert_skipped_as_by_hand(case, layer, "block", layer.rpartition(".")[0], *BOTH)
    assert_skipped_as_by_hand(case, layer, "attention", layer, *BOTH)
    assert_shuffled_as_by_hand(case, layer)


def test_fused():
    assert_fused_as_by_brute_force(CASES[0])


def test_windows_of_a_video_that_is_given_are_refused():
    pipe = MORE[1].pipeline()
    with SlidingWindowGuidance().attach(pipe), pytest.raises(ValueError, match="control_latents"):
        run_of(pipe, MORE[1])()
