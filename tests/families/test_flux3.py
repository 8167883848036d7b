"""Guidance of Flux 3."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from guiders import assert_guider_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_flux3 import CASES, DISTILLED, DISTILLED_REFERRING, IMAGES, REFERRING, transformer

from smoothed_energy.families import family_of

BOTH = ("encoder_hidden_states", "hidden_states")
ALONE, TOGETHER = IMAGES


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(sigma):
    assert_guided_as_by_brute_force(DISTILLED, sigma=sigma)


def test_references_follow_the_image():
    assert_guided_as_by_brute_force(DISTILLED_REFERRING)


@pytest.mark.parametrize("changes", [{"cfg": False}, {}])
def test_the_guider_as_by_brute_force(changes):
    """The prompts are of five and of seven tokens."""
    assert_guider_as_by_brute_force(CASES[0], **changes)


def test_the_guider_with_references():
    assert_guider_as_by_brute_force(REFERRING, sigma=math.inf)


def test_skipped():
    block = ALONE.rpartition(".")[0]
    assert_skipped_as_by_hand(DISTILLED, ALONE, "block", block, "hidden_states")
    assert_skipped_as_by_hand(
        DISTILLED_REFERRING, TOGETHER, "block", TOGETHER.rpartition(".")[0], *BOTH
    )
    assert_skipped_as_by_hand(DISTILLED, ALONE, "attention", ALONE, "hidden_states")
    assert_skipped_as_by_hand(DISTILLED, ALONE, "feed-forward", f"{block}.ff", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(DISTILLED, ALONE)
    assert_shuffled_as_by_hand(DISTILLED_REFERRING, TOGETHER)


def test_layers():
    layers = family_of(transformer()).layers(transformer())
    assert [layer.code for layer in layers] == ["b0", "b1", "s0", "s1", "s2"]
    assert {(layer.heads, layer.width) for layer in layers} == {(2, 32)}
