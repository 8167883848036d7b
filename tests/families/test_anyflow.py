"""Guidance of AnyFlow."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from diffusers import AnyFlowFARPipeline
from fusion_in_places import assert_fused_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_anyflow import CASES, transformer
from tiny_pipelines import noise

from smoothed_energy import SmoothedEnergyGuidance

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma, temporal=1.0)


def test_given_frames():
    """They have the time 0, and the others the step's."""
    given = {"video_latents": noise(2, 1, 4, 8, 12, seed=5)}
    assert_guided_as_by_brute_force(CASE, **given)
    pipe = CASE.pipeline()
    with SmoothedEnergyGuidance(layers="b1", steps="0:0.5").attach(pipe) as attachment:
        run_of(pipe, CASE, **given)()
    assert attachment.last_run.guided_calls == 1


def test_fused():
    assert_fused_as_by_brute_force(CASE)


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.ffn", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)


def test_chunks_in_flex_attention_are_refused():
    pipe = AnyFlowFARPipeline(
        transformer=transformer(),
        scheduler=CASE.pipeline().scheduler,
        **dict.fromkeys(("vae", "text_encoder", "tokenizer")),
    )
    with pytest.raises(RuntimeError, match="flex_attention"):
        SmoothedEnergyGuidance().attach(pipe)
