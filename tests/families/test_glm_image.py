"""Guidance of GLM-Image."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_glm_image import CASES, PICTURE

from smoothed_energy import Autoguidance, PerturbedAttentionGuidance
from smoothed_energy.intercept.attention import AttentionBackendError

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]
BOTH = ("hidden_states", "encoder_hidden_states")


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma)


@pytest.mark.parametrize("formulation", ["conditional", "unconditional"])
def test_keys_of_given_pictures(formulation):
    """The pass without the prompt does not have them; calls that make them are no steps."""
    assert_guided_as_by_brute_force(PICTURE, cfg=True, formulation=formulation)


@pytest.mark.parametrize(
    ("guidance", "error", "match"),
    [
        (PerturbedAttentionGuidance(layers="b1"), AttentionBackendError, "of the same tokens"),
        (Autoguidance(weak=CASE.pipeline().transformer), RuntimeError, "kv_cache"),
    ],
)
def test_what_needs_keys_of_its_own_is_refused(guidance, error, match):
    pipe = PICTURE.pipeline()
    with guidance.attach(pipe), pytest.raises(error, match=match):
        run_of(pipe, PICTURE)()


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, *BOTH)
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, *BOTH)
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.ff", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)
