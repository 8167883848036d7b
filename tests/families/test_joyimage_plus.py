"""Guidance of JoyImage-Edit Plus."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_joyimage_plus import CASES, transformer

from smoothed_energy.families import Arguments, family_of

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]
BOTH = ("hidden_states", "encoder_hidden_states")


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASE, cfg=True, formulation="unconditional")


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, *BOTH)
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, *BOTH)
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.img_mlp", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)


def test_patches_are_put_together():
    video = torch.randn(2, 4, 1, 12, 8)
    patches = video.view(2, 4, 1, 1, 6, 2, 4, 2).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(1, 3)
    prediction = torch.cat([patches, torch.ones(2, 3, 4, 1, 2, 2)], dim=1)
    given = Arguments({"shape_list": [[(1, 6, 4), (1, 1, 3)]] * 2}.get)
    layout = family_of(transformer()).latent_layout(transformer(), given)
    assert torch.equal(layout.unpack(prediction), video)
    packed = layout.pack(video, prediction)
    assert torch.equal(packed[:, :24], patches)
    assert not packed[:, 24:].any()
