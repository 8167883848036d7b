"""Guidance of Flux."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_flux import CASES, MORE, transformer

from smoothed_energy import SkipLayerGuidance
from smoothed_energy.families import family_of
from smoothed_energy.grid import GridError
from smoothed_energy.layers import LayerError

BOTH = ("hidden_states", "encoder_hidden_states")
LAYERS = tuple(CASES[0].images)


def of(*cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.family)


@of(*CASES)
@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(case, cfg, sigma):
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=sigma)


@of(*MORE)
def test_other_pipelines(case):
    assert_guided_as_by_brute_force(case, cfg=True, sigma=math.inf)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASES[0], cfg=True, formulation="unconditional")


def test_a_scale_without_a_negative_prompt_is_no_cfg():
    assert_guided_as_by_brute_force(CASES[0], true_cfg_scale=4.0)


@pytest.mark.parametrize("layer", LAYERS)
def test_skipped_blocks(layer):
    block = layer.rpartition(".")[0]
    assert_skipped_as_by_hand(CASES[0], layer, "block", block, *BOTH[::-1])


def test_skipped_attention():
    double, single = LAYERS
    assert_skipped_as_by_hand(CASES[0], double, "attention", double, *BOTH)
    assert_skipped_as_by_hand(CASES[0], single, "attention", single, "hidden_states")


def test_skipped_feed_forward():
    double, single = LAYERS
    assert_skipped_as_by_hand(
        CASES[0], double, "feed-forward", "transformer_blocks.1.ff", "hidden_states"
    )
    with pytest.raises(LayerError, match="no feed-forward network to skip"):
        SkipLayerGuidance(layers=single, skip="feed-forward").attach(transformer())


@of(CASES[1])
@pytest.mark.parametrize("layer", LAYERS)
def test_shuffled_tokens(case, layer):
    assert_shuffled_as_by_hand(case, layer)


def test_names_of_layers():
    layers = family_of(transformer()).layers(transformer())
    assert [layer.code for layer in layers] == ["b0", "b1", "s0", "s1", "s2"]


def grid_of(places):
    return family_of(transformer()).grid(transformer(), {"img_ids": places}.get)


def places(picture, height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    found = [torch.full_like(rows, picture), rows, columns]
    return torch.stack(found, dim=-1).reshape(-1, 3).float()


@pytest.mark.parametrize("grid", [(1, 7), (7, 1), (300, 520)])
def test_grid_in_half_precision(grid):
    """Positions above 256 are rounded."""
    positions = places(0, *grid).bfloat16()
    assert grid_of(positions) == grid
    assert grid_of(positions[None]) == grid
    assert grid_of(torch.cat([positions, places(1, 3, 5).bfloat16()])) == grid


def test_image_among_pictures_is_refused():
    assert grid_of(places(1, 4, 6)) == (4, 6)
    with pytest.raises(GridError, match="of several pictures, counted from 1"):
        grid_of(torch.cat([places(1, 4, 6), places(2, 4, 6)]))
