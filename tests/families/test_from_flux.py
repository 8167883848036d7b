"""Guidance of models that derive from Flux: Chroma, Ovis-Image, LongCat-Image and Bria's."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from test_flux import places
from tiny_from_flux import BRIA, CASES, CHROMA, FIBO, LAYERS, LONGCAT, MORE, OVIS

from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families import Arguments, family_of

BOTH = ("encoder_hidden_states", "hidden_states")
DOUBLE, SINGLE = LAYERS


def of(*cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.family)


@of(*CASES)
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True)


@of(*MORE)
def test_other_pipelines(case):
    assert_guided_as_by_brute_force(case, cfg=True)


@pytest.mark.parametrize(
    ("case", "sigma"), [(CHROMA, math.inf), (OVIS, 1.0), (LONGCAT, 1.0), (BRIA, 1.0), (FIBO, 1.0)]
)
def test_without_cfg(case, sigma):
    assert_guided_as_by_brute_force(case, sigma=sigma)


@of(*CASES)
def test_skipped_blocks(case):
    """Some blocks of one stream take image and text together."""
    block = SINGLE.removesuffix(".attn")
    names = BOTH if case in (OVIS, LONGCAT, BRIA) else BOTH[1:]
    assert_skipped_as_by_hand(case, SINGLE, "block", block, *names)


@of(CHROMA, OVIS)
def test_skipped_attention(case):
    assert_skipped_as_by_hand(case, DOUBLE, "attention", DOUBLE, *BOTH[::-1])


@of(CHROMA, BRIA)
def test_shuffled_tokens(case):
    assert_shuffled_as_by_hand(case, DOUBLE)


def test_a_picture_that_is_edited():
    """LongCat counts the image 1 and what it is made from 2, with the same rows."""
    denoiser = LONGCAT.pipeline().transformer
    family = family_of(denoiser)
    pictures = torch.cat([places(1, 3, 4), places(2, 3, 4)])
    given = {"img_ids": pictures, "hidden_states": torch.zeros(1, 24, 64)}
    arguments = Arguments(given.get)
    found = family.tokens(denoiser, arguments, DOUBLE, 29)
    assert (found.grid, found.start) == ((3, 4), 5)
    given["img_ids"] = torch.cat([places(2, 3, 4), places(1, 3, 4)])
    with pytest.raises(GridError, match="expected the image first, counted 1"):
        family.tokens(denoiser, Arguments(given.get), DOUBLE, 29)
