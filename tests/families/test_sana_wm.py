"""Guidance of Sana-WM."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_sana_wm import CASES

from smoothed_energy import PerturbedAttentionGuidance, SmoothedEnergyGuidance
from smoothed_energy.families import LayerError, family_of

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


@pytest.mark.parametrize(
    ("cfg", "sigma", "temporal"),
    [(False, 1.0, None), (False, math.inf, math.inf), (True, 1.0, 1.0)],
)
def test_as_by_brute_force(cfg, sigma, temporal):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma, temporal=temporal)


def test_layers_with_attention_are_apart_from_others():
    pipe = CASE.pipeline()
    layers = family_of(pipe.transformer).layers(pipe.transformer)
    assert [(layer.code, layer.part) for layer in layers] == [
        ("r0", "recurrent"),
        ("b0", "down"),
        ("r1", "recurrent"),
        ("b1", "mid"),
    ]
    for cls in (SmoothedEnergyGuidance, PerturbedAttentionGuidance):
        with pytest.raises(LayerError, match="sparse or linear attention"):
            cls(layers="r0").attach(pipe)
    assert_skipped_as_by_hand(CASE, "blocks.2.attn", "block", "blocks.2", "hidden_states")


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.mlp", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)
