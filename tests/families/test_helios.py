"""Guidance of Helios."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from diffusers import HeliosPyramidPipeline
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_helios import BEFORE, CASES, CHUNKS, STAGES, helios

from smoothed_energy import SmoothedEnergyGuidance

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    """The tokens of earlier frames are left alone."""
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma, temporal=1.0)


def test_chunks_after_each_other():
    assert_guided_as_by_brute_force(CHUNKS, cfg=True)


def test_a_pyramid_of_sizes():
    assert_guided_as_by_brute_force(STAGES, cfg=True)


def test_a_projected_cfg_is_refused():
    pipe = helios(HeliosPyramidPipeline, 2, is_cfg_zero_star=True)
    guidance = SmoothedEnergyGuidance(layers="b1")
    with guidance.attach(pipe), pytest.raises(RuntimeError, match="is_cfg_zero_star"):
        run_of(pipe, STAGES, cfg=True)()
    with guidance.attach(pipe) as attachment:
        run_of(pipe, STAGES)()
    assert attachment.last_run.layers == {"blocks.1.attn1"}


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.ffn", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER, start=BEFORE)
