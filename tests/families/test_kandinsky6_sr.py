"""Guidance of Kandinsky 6 where it makes videos larger."""

import dataclasses

import pytest
from comparison import run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_kandinsky6_sr import CASES, TILE

from smoothed_energy import PerturbedAttentionGuidance, SmoothedEnergyGuidance
from smoothed_energy.families import LayerError
from smoothed_energy.methods import SlidingWindowGuidance

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


def test_skipped_block():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, "hidden_states")


def test_shuffled_tokens():
    # Of one tile: the schedule of another begins again.
    one = {**CASE.arguments, "video": CASE.arguments["video"][..., : TILE // 2]}
    assert_shuffled_as_by_hand(dataclasses.replace(CASE, arguments=one), LAYER)


def test_sparse_attention_has_no_softmax_to_see():
    pipe = CASE.pipeline()
    for cls in (SmoothedEnergyGuidance, PerturbedAttentionGuidance):
        with pytest.raises(LayerError, match="sparse or linear attention"):
            cls(layers=LAYER).attach(pipe)


def test_windows_would_cut_channels():
    pipe = CASE.pipeline()
    with SlidingWindowGuidance().attach(pipe), pytest.raises(ValueError, match="into windows"):
        run_of(pipe, CASE)()
