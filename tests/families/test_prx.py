"""Guidance of PRX."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_prx import CASES, PIXELS

from smoothed_energy import (
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
)
from smoothed_energy.families.layer_selection import LayerError
from smoothed_energy.integrations.pipeline_facts import prediction_type
from smoothed_energy.intercept.attention import AttentionBackendError

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASE, cfg=True, formulation="unconditional")


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, "hidden_states")
    with pytest.raises(LayerError, match="no feed-forward network to skip"):
        SkipLayerGuidance(layers=LAYER, skip="feed-forward").attach(CASE.pipeline())


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)


@pytest.mark.parametrize(
    "guidance",
    [PerturbedAttentionGuidance(layers=LAYER), SmoothedEnergyGuidance(layers=LAYER, on="key")],
    ids=["pag", "keys"],
)
def test_keys_of_text_and_image_are_refused(guidance):
    pipe = CASE.pipeline()
    with (
        guidance.attach(pipe),
        pytest.raises(AttentionBackendError, match=r"24 .* 29 keys"),
    ):
        run_of(pipe, CASE)()


def test_steps_by_noise_level():
    pipe = CASE.pipeline()
    with SmoothedEnergyGuidance(steps="0:0.25").attach(pipe) as attachment:
        run_of(pipe, CASE, num_inference_steps=4)()
    assert (attachment.last_run.calls, attachment.last_run.guided_calls) == (4, 1)


def test_in_pixels():
    """What is predicted is the picture, and the pipeline makes a flow of it."""
    assert_skipped_as_by_hand(PIXELS, LAYER, "block", BLOCK, "hidden_states")
    assert_shuffled_as_by_hand(PIXELS, LAYER)
    pipe = PIXELS.pipeline()
    assert prediction_type(pipe, pipe.transformer) is None
