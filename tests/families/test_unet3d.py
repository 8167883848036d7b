"""Guidance of U-Nets with transformers over time: ModelScope's, and I2VGen-XL's."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_skipped_as_by_hand
from tiny_unet3d import CASES, MORE, unet, unet_of_pictures

from smoothed_energy import SlidingWindowGuidance
from smoothed_energy.families import family_of
from smoothed_energy.families.layer_selection import select_layers

CASE = pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.family)


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True, sigma=1.0, temporal=1.0)


def test_infinite_sigma_without_cfg():
    assert_guided_as_by_brute_force(CASES[0], sigma=math.inf, temporal=math.inf)


def test_skipped():
    layer = next(iter(MORE[0].images))
    block = layer.rpartition(".")[0]
    assert_skipped_as_by_hand(MORE[0], layer, "block", block, "hidden_states")


@pytest.mark.parametrize("model", [unet, unet_of_pictures])
def test_layers_are_counted_in_the_order_in_which_they_run(model):
    layers = family_of(model()).layers(model())
    codes = ["t0", "t1", "d0", "t2", "t3", "m0", "t4", "t5", "u0", "t6", "t7", "u1", "t8", "t9"]
    assert [layer.code for layer in layers] == codes
    assert [layer.name for layer in select_layers(model(), "t0.*")] == [
        f"transformer_in.transformer_blocks.0.attn{number}" for number in (1, 2)
    ]


def test_windows_of_a_picture_that_is_given_are_refused():
    case = MORE[-1]
    pipe = case.pipeline()
    with SlidingWindowGuidance().attach(pipe), pytest.raises(ValueError, match="image_latents"):
        run_of(pipe, case)()
