"""Guidance of HunyuanVideo."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_hunyuan_video import CASES, MORE, transformer

from smoothed_energy import SkipLayerGuidance
from smoothed_energy.families import family_of
from smoothed_energy.families.layer_selection import LayerError

CASE = CASES[0]
LAYERS = tuple(CASE.images)
BOTH = ("hidden_states", "encoder_hidden_states")


@pytest.mark.parametrize(
    ("sigma", "temporal"),
    [(1.0, None), (1.0, 1.0), (0.0, 1.0), (math.inf, None), (math.inf, math.inf)],
    ids=["spatial", "both", "temporal", "mean of frames", "mean"],
)
def test_as_by_brute_force(sigma, temporal):
    assert_guided_as_by_brute_force(CASE, sigma=sigma, temporal=temporal)


@pytest.mark.parametrize(("sigma", "temporal"), [(1.0, None), (1.0, 1.0)])
def test_with_cfg(sigma, temporal):
    assert_guided_as_by_brute_force(CASE, cfg=True, sigma=sigma, temporal=temporal)


@pytest.mark.parametrize("case", MORE, ids=lambda case: case.family)
def test_image_to_video(case):
    assert_guided_as_by_brute_force(case, cfg=True, temporal=1.0)
    block = "transformer_blocks.1"
    assert_skipped_as_by_hand(case, f"{block}.attn", "block", block, *BOTH)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASE, cfg=True, formulation="unconditional")


@pytest.mark.parametrize("layer", LAYERS)
def test_skipped_modules(layer):
    block = layer.rpartition(".")[0]
    assert_skipped_as_by_hand(CASE, layer, "block", block, *BOTH)
    assert_skipped_as_by_hand(CASE, layer, "attention", layer, *BOTH)


def test_skipped_feed_forward():
    double, single = LAYERS
    assert_skipped_as_by_hand(
        CASE, double, "feed-forward", "transformer_blocks.1.ff", "hidden_states"
    )
    with pytest.raises(LayerError, match="no feed-forward network to skip"):
        SkipLayerGuidance(layers=single, skip="feed-forward").attach(transformer())


@pytest.mark.parametrize("layer", LAYERS)
def test_shuffled_tokens(layer):
    assert_shuffled_as_by_hand(CASE, layer)


def test_names_of_layers():
    layers = family_of(transformer()).layers(transformer())
    assert [layer.code for layer in layers] == ["b0", "b1", "s0", "s1", "s2"]
