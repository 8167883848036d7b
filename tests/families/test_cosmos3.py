"""Guidance of Cosmos 3."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force, run_of
from diffusers.pipelines.cosmos.pipeline_cosmos3_omni import CosmosActionCondition
from replaced_modules import assert_skipped_as_by_hand
from tiny_cosmos3 import CASES, MORE
from tiny_pipelines import difference

from smoothed_energy import (
    PerturbedAttentionGuidance,
    SmoothedEnergyGuidance,
    TokenPerturbationGuidance,
)
from smoothed_energy.families import Arguments, GridError, family_of
from smoothed_energy.intercept.attention import AttentionBackendError

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


@pytest.mark.parametrize(
    ("cfg", "sigma", "temporal"),
    [(False, 1.0, None), (False, math.inf, math.inf), (True, 1.0, 1.0)],
)
def test_as_by_brute_force(cfg, sigma, temporal):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma, temporal=temporal)


@pytest.mark.parametrize("case", MORE, ids=lambda case: case.family)
def test_from_a_picture_with_sound(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_skipped_modules():
    both = ("hidden_states", "encoder_hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, *both)
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, *both)
    network = f"{BLOCK}.mlp_moe_gen"
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", network, "hidden_states")


@pytest.mark.parametrize(
    "guidance",
    [
        PerturbedAttentionGuidance(layers="b1"),
        SmoothedEnergyGuidance(layers="b1", on="key"),
        TokenPerturbationGuidance(layers="b1"),
    ],
)
def test_what_needs_keys_or_rows_is_refused(guidance):
    pipe = CASE.pipeline()
    match = "of the same tokens|no axis for rows"
    with guidance.attach(pipe), pytest.raises((AttentionBackendError, ValueError), match=match):
        run_of(pipe, CASE, num_inference_steps=1)()


def action(mode, **more):
    return {
        "action": CosmosActionCondition(
            mode=mode,
            chunk_size=8,
            domain_name="av",
            resolution_tier=256,
            video=torch.rand(9, 3, 64, 96),
            **more,
        ),
        **dict.fromkeys(("num_frames", "height", "width")),
    }


def test_videos_of_actions():
    pipe = CASE.pipeline()
    guidance = SmoothedEnergyGuidance(layers="b1")
    with guidance.attach(pipe), pytest.raises(RuntimeError, match="the whole video is given"):
        run_of(pipe, CASE, **action("inverse_dynamics"))()
    run = run_of(pipe, CASE, **action("policy"))
    plain = run()
    with guidance.attach(pipe):
        assert difference(run(), plain) > 1e-2


def test_one_video_in_a_sequence():
    family = family_of(CASE.pipeline().transformer)
    with pytest.raises(GridError, match="2 videos"):
        family.latents(Arguments({"vision_tokens": [torch.ones(1), torch.ones(1)]}.get))
