"""Guidance of Kandinsky 3."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from fusion_in_places import assert_fused_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_kandinsky3 import CASES, DOWN, GRID, MORE, UP, unet

from smoothed_energy.families import family_of
from smoothed_energy.families.layer_selection import self_attention_layers

CASE = pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.family)


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_infinite_sigma_without_cfg():
    assert_guided_as_by_brute_force(CASES[0], sigma=math.inf)


def test_skipped_and_shuffled():
    block = DOWN.rpartition(".")[0]
    assert_skipped_as_by_hand(CASES[0], DOWN, "block", block, "hidden_states")
    network = f"{block}.feed_forward"
    assert_skipped_as_by_hand(CASES[0], DOWN, "feed-forward", network, "hidden_states")
    assert_shuffled_as_by_hand(CASES[0], DOWN)


def test_fused():
    assert_fused_as_by_brute_force(CASES[0])


def test_layers():
    layers = self_attention_layers(unet())
    assert [(layer.code, layer.name, layer.part) for layer in layers] == [
        ("d0", DOWN, "mid"),
        ("u0", UP, "mid"),
        ("u1", "up_blocks.1.attentions.0.attention", "up"),
    ]
    grids = [family_of(unet()).layer_grid(unet(), layer, (8, 16)) for layer in layers]
    assert grids == [GRID, GRID, (8, 16)]
    assert family_of(unet()).multiple(unet()) == 2
