"""Guidance of HiDream."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_hidream import CASES, LAYERS, SQUARE, transformer

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families import Arguments, family_of

CASE = CASES[0]
DOUBLE, SINGLE = LAYERS
BOTH = ("hidden_states", "encoder_hidden_states")


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma)


def test_square_pictures_have_no_padding():
    assert_guided_as_by_brute_force(SQUARE, cfg=True)


def test_skipped_blocks():
    block = DOUBLE.removesuffix(".attn1")
    named = CASE.pipeline().transformer.get_submodule(block)
    assert type(named).__name__ == "HiDreamImageTransformerBlock"
    # Called by names, of which the text's is the third.
    skipped = (CASE, DOUBLE, "block", block)
    assert_skipped_as_by_hand(*skipped, *BOTH)
    assert_skipped_as_by_hand(CASE, SINGLE, "block", SINGLE.removesuffix(".attn1"), "hidden_states")


def test_skipped_parts():
    assert_skipped_as_by_hand(CASE, SINGLE, "attention", SINGLE, "hidden_states")
    experts = DOUBLE.replace("attn1", "ff_i")
    assert_skipped_as_by_hand(CASE, DOUBLE, "feed-forward", experts, "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, SINGLE)


def test_steps_by_the_time_that_the_denoiser_is_told():
    pipe = CASE.pipeline()
    with SmoothedEnergyGuidance(layers="b1", steps="0:0.25").attach(pipe) as attachment:
        run_of(pipe, CASE, num_inference_steps=4)()
    assert attachment.last_run.calls == 4
    assert attachment.last_run.guided_calls == 1


def test_patches_of_somebody_else_are_refused():
    given = {"hidden_states": torch.zeros(1, 36, 16)}
    with pytest.raises(GridError, match="are patches"):
        family_of(transformer()).tokens(transformer(), Arguments(given.get), DOUBLE, 45)


def test_layers():
    layers = family_of(transformer()).layers(transformer())
    assert [layer.code for layer in layers] == ["b0", "b1", "s0", "s1"]
    assert [layer.name for layer in layers][1::2] == list(LAYERS)
