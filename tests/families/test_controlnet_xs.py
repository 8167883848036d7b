"""Guidance of ControlNet-XS."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_skipped_as_by_hand
from tiny_controlnet_xs import CASES, DOWN, MORE, of_sd, unet, xl_unet
from tiny_pipelines import new_unet, new_xl_unet

from smoothed_energy import SlidingWindowGuidance
from smoothed_energy.families import family_of
from smoothed_energy.families.layer_selection import self_attention_layers

CASE = pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.family)


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_infinite_sigma_without_cfg():
    assert_guided_as_by_brute_force(CASES[0], sigma=math.inf)


def test_where_control_ends_in_mid_run():
    assert_guided_as_by_brute_force(CASES[0], cfg=True, control_guidance_end=0.5)


def test_skipped():
    assert_skipped_as_by_hand(MORE[0], DOWN, "block", DOWN.rpartition(".")[0], "hidden_states")


@pytest.mark.parametrize(
    ("controlled", "plain"), [(unet, new_unet), (xl_unet, new_xl_unet)], ids=["SD", "SDXL"]
)
def test_layers_are_those_of_the_unet(controlled, plain):
    codes = [layer.dotted for layer in self_attention_layers(plain(layers_per_block=2))]
    layers = self_attention_layers(controlled())
    assert [layer.dotted for layer in layers] == codes
    family = family_of(controlled())
    assert {family.layer_grid(controlled(), layer, (12, 8)) for layer in layers} <= {
        (12, 8),
        (6, 4),
    }


def test_a_callback_does_not_change_the_scale():
    def more(pipe, step, timestep, values):
        pipe._guidance_scale = 1.0
        return values

    assert_guided_as_by_brute_force(CASES[0], cfg=True, callback_on_step_end=more)


def test_windows_of_a_controlled_picture_are_refused():
    pipe = of_sd()
    with SlidingWindowGuidance().attach(pipe), pytest.raises(ValueError, match="controlnet_cond"):
        run_of(pipe, CASES[0])()
