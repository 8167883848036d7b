"""Guidance of Latte."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_skipped_as_by_hand
from tiny_latte import CASES, MORE, transformer

from smoothed_energy.families import family_of
from smoothed_energy.families.layer_selection import select_layers

CASE = pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.family)


@CASE
@pytest.mark.parametrize(
    ("cfg", "sigma", "temporal"),
    [(False, 1.0, 1.0), (True, 1.0, 1.0), (False, math.inf, None), (False, 0.0, math.inf)],
)
def test_as_by_brute_force(case, cfg, sigma, temporal):
    if case in MORE and temporal is None:
        temporal = 1.0  # A blur in space alone mixes the queries of places.
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=sigma, temporal=temporal)


@CASE
def test_skipped(case):
    (layer,) = case.images
    block = layer.rpartition(".")[0]
    assert_skipped_as_by_hand(case, layer, "block", block, "hidden_states")


def test_layers_are_counted_in_the_order_in_which_they_run():
    layers = family_of(transformer()).layers(transformer())
    assert [layer.code for layer in layers] == ["b0", "t0", "b1", "t1", "b2", "t2"]
    assert [layer.part for layer in layers] == ["down", "motion", "mid", "motion", "up", "motion"]
    assert [layer.code for layer in select_layers(transformer(), "motion")] == ["t0", "t1", "t2"]
