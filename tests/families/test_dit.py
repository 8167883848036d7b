"""Guidance of DiT."""

import dataclasses
import math

import pytest
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_dit import CASES

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_without_cfg(sigma):
    case = dataclasses.replace(CASE, sent=lambda prediction: prediction[:, :4])
    assert_guided_as_by_brute_force(case, sigma=sigma)


@pytest.mark.parametrize("formulation", ["conditional", "unconditional"])
def test_with_cfg(formulation):
    assert_guided_as_by_brute_force(CASE, cfg=True, formulation=formulation)


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.ff", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)
