"""Guidance of Kandinsky 3."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from fusion_in_places import assert_fused_as_by_brute_force
from replaced_modules import assert_skipped_as_by_hand
from tiny_kandinsky3 import CASES, unet

from smoothed_energy import TokenPerturbationGuidance
from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families import family_of

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma)


def test_fused():
    assert_fused_as_by_brute_force(CASE)


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.feed_forward", "hidden_states")


def test_maps_are_not_shuffled():
    pipe = CASE.pipeline()
    with (
        TokenPerturbationGuidance(layers="d1").attach(pipe),
        pytest.raises(GridError, match="feature map"),
    ):
        run_of(pipe, CASE)()


def test_layers_and_grids():
    denoiser, family = unet(), family_of(unet())
    layers = family.layers(denoiser)
    assert [layer.code for layer in layers] == ["d0", "d1", "d2", "u0", "u1", "u2"]
    grids = [family.layer_grid(denoiser, layer, (24, 8)) for layer in layers]
    assert grids == [(12, 4), (6, 2), (3, 1), (3, 1), (6, 2), (12, 4)]
    for layer, grid in CASE.images.items():
        (found,) = [one for one in layers if one.name == layer]
        assert family.layer_grid(denoiser, found, (24, 8)) == grid.grid
