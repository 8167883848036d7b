"""Guidance of sounds, whose tokens lie along one axis."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from fusion_in_places import assert_fused_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_audioldm import MORE as SPECTROGRAMS
from tiny_longcat_audio import CASES as LONGCAT
from tiny_stable_audio import CASES as STABLE
from tiny_stable_audio import INPAINTED

from smoothed_energy import SlidingWindowGuidance

CASE = pytest.mark.parametrize("case", [*STABLE, *LONGCAT], ids=lambda case: case.family)


@pytest.mark.parametrize(
    "case", [*STABLE, *LONGCAT, *SPECTROGRAMS], ids=lambda case: case.family
)
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True)


@CASE
def test_infinite_sigma_without_cfg(case):
    assert_guided_as_by_brute_force(case, sigma=math.inf)


@CASE
def test_skipped_and_shuffled(case):
    ((layer, image),) = case.images.items()
    assert_skipped_as_by_hand(case, layer, "block", layer.rpartition(".")[0], "hidden_states")
    assert_skipped_as_by_hand(case, layer, "attention", layer, "hidden_states")
    assert_shuffled_as_by_hand(case, layer, image.start)


@CASE
def test_fused(case):
    assert_fused_as_by_brute_force(case)


def test_parts_of_a_sound():
    assert_guided_as_by_brute_force(INPAINTED)


@CASE
def test_windows_are_refused(case):
    pipe = case.pipeline()
    with SlidingWindowGuidance().attach(pipe), pytest.raises(ValueError, match="sliding window"):
        run_of(pipe, case)()
