"""Guidance of Motif-Video."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from diffusers import AdaptiveProjectedGuidance
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_motif_video import CASES, MORE, WITHOUT_CFG, motif_video

from smoothed_energy import SmoothedEnergyGuidance

CASE = pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.family)
BOTH = ("hidden_states", "encoder_hidden_states")


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True, temporal=1.0)


def test_infinite_sigma_without_cfg():
    assert_guided_as_by_brute_force(WITHOUT_CFG, sigma=math.inf)


@pytest.mark.parametrize("layer", WITHOUT_CFG.images)
def test_skipped_and_shuffled(layer):
    block = layer.rpartition(".")[0]
    assert_skipped_as_by_hand(WITHOUT_CFG, layer, "block", block, *BOTH)
    assert_skipped_as_by_hand(WITHOUT_CFG, layer, "attention", layer, *BOTH)
    assert_shuffled_as_by_hand(WITHOUT_CFG, layer)


def test_other_guiders_are_refused_at_once():
    pipe = motif_video(guider=AdaptiveProjectedGuidance())
    with pytest.raises(RuntimeError, match="AdaptiveProjectedGuidance does more"):
        SmoothedEnergyGuidance().attach(pipe)
