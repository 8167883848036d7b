"""Guidance of Flux 3."""

import dataclasses
import math

import pytest
from comparison import assert_guided_as_by_brute_force
from guiders import assert_guider_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_flux3 import CASES, IMAGES, REFERRING, WITH_CFG, WITH_CFG_REFERRING, transformer

from smoothed_energy.families import family_of

BOTH = ("encoder_hidden_states", "hidden_states")
ALONE, TOGETHER = IMAGES


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(sigma):
    assert_guided_as_by_brute_force(CASES[0], sigma=sigma)


def test_references_follow_the_image():
    assert_guided_as_by_brute_force(REFERRING)


@pytest.mark.parametrize("cfg", [False, True])
def test_the_guider_as_by_brute_force(cfg):
    """The prompts are of five and of seven tokens."""
    assert_guider_as_by_brute_force(WITH_CFG, cfg=cfg)


def test_the_guider_with_references():
    assert_guider_as_by_brute_force(WITH_CFG_REFERRING, sigma=math.inf)


def test_skipped():
    block = ALONE.rpartition(".")[0]
    assert_skipped_as_by_hand(CASES[0], ALONE, "block", block, "hidden_states")
    assert_skipped_as_by_hand(REFERRING, TOGETHER, "block", TOGETHER.rpartition(".")[0], *BOTH)
    assert_skipped_as_by_hand(CASES[0], ALONE, "attention", ALONE, "hidden_states")
    assert_skipped_as_by_hand(CASES[0], ALONE, "feed-forward", f"{block}.ff", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASES[0], ALONE)
    assert_shuffled_as_by_hand(REFERRING, TOGETHER)


def test_layers():
    layers = family_of(transformer()).layers(transformer())
    assert [layer.code for layer in layers] == ["b0", "b1", "s0", "s1", "s2"]
    assert {(layer.heads, layer.width) for layer in layers} == {(2, 32)}
