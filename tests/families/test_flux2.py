"""Guidance of Flux 2."""

import dataclasses
import math

import pytest
from brute_force_attention import Image
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_flux2 import CASES, LAYERS, MORE, REFERENCE, WITHOUT_CFG

from smoothed_energy import PerturbedAttentionGuidance
from smoothed_energy.families import family_of
from smoothed_energy.intercept.attention import AttentionBackendError

BOTH = ("hidden_states", "encoder_hidden_states")
DOUBLE, SINGLE = LAYERS


def of(*cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.family)


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASES[0], cfg=cfg, sigma=sigma)


@of(*MORE)
def test_other_pipelines(case):
    assert_guided_as_by_brute_force(case, cfg=True)


@of(*WITHOUT_CFG)
def test_pipelines_without_cfg(case):
    """A scale above 1 is an input of Flux 2, and ignored where Klein is distilled."""
    assert_guided_as_by_brute_force(case)


def test_skipped_blocks():
    double, single = (layer.removesuffix(".attn") for layer in LAYERS)
    assert_skipped_as_by_hand(CASES[0], DOUBLE, "block", double, *BOTH[::-1])
    assert_skipped_as_by_hand(CASES[0], SINGLE, "block", single, "hidden_states")


def test_skipped_attention():
    assert_skipped_as_by_hand(CASES[0], DOUBLE, "attention", DOUBLE, *BOTH)
    # The feed-forward network is inside.
    assert_skipped_as_by_hand(CASES[0], SINGLE, "attention", SINGLE, "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(MORE[0], DOUBLE)


CACHED = dataclasses.replace(
    WITHOUT_CFG[-1], arguments={**WITHOUT_CFG[-1].arguments, "image": [REFERENCE]}
)


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_references_whose_keys_are_kept(sigma):
    """They come before the image at the first step, and their keys alone at the others."""
    images = {layer: Image((6, 4), 5, queries=5 + 24) for layer in LAYERS}
    case = dataclasses.replace(CACHED, images=images)
    assert_guided_as_by_brute_force(case, sigma=sigma)


def test_what_needs_keys_of_the_same_tokens_is_refused_beside_kept_ones():
    pipe = CACHED.pipeline()
    with (
        PerturbedAttentionGuidance(layers="b1").attach(pipe),
        pytest.raises(AttentionBackendError, match="of the same tokens"),
    ):
        run_of(pipe, CACHED)()


def test_layers():
    denoiser = CASES[0].pipeline().transformer
    layers = family_of(denoiser).layers(denoiser)
    assert [layer.code for layer in layers] == ["b0", "b1", "s0", "s1", "s2"]
    assert {(layer.heads, layer.width) for layer in layers} == {(2, 32)}
