"""Guidance of JoyImage-Edit."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_joyimage import CASES, WITHOUT_PICTURE, transformer

from smoothed_energy.families import Arguments, family_of

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]
BOTH = ("hidden_states", "encoder_hidden_states")


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma)


def test_from_text_alone():
    assert_guided_as_by_brute_force(WITHOUT_PICTURE, cfg=True)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASE, cfg=True, formulation="unconditional")


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, *BOTH)
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, *BOTH)
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.img_mlp", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)


def test_the_image_is_the_last_of_the_pictures_where_places_are_compared():
    prediction = torch.randn(2, 3, 4, 1, 12, 8)
    given = Arguments({"hidden_states": prediction}.get)
    layout = family_of(transformer()).latent_layout(transformer(), given)
    unpacked = layout.unpack(prediction)
    assert torch.equal(unpacked, prediction[:, 2])
    packed = layout.pack(unpacked, prediction)
    assert torch.equal(packed[:, 2], prediction[:, 2])
    assert not packed[:, :2].any()
