"""Guidance of Qwen-Image 2.1."""

import dataclasses
import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_skipped_as_by_hand
from tiny_pipelines import TOLERANCE, difference
from tiny_qwen_image21 import CASES, PICTURE

from smoothed_energy import (
    Autoguidance,
    GuidanceInterval,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
)
from smoothed_energy.families import Arguments, family_of
from smoothed_energy.intercept.attention import AttentionBackendError

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


@pytest.mark.parametrize("sigma", [1.0, math.inf])
@pytest.mark.parametrize("cached", [False, True])
def test_as_by_brute_force(sigma, cached):
    assert_guided_as_by_brute_force(CASE, sigma=sigma, use_kv_cache=cached)


@pytest.mark.parametrize("cached", [False, True])
def test_cfg(cached):
    assert_guided_as_by_brute_force(CASE, cfg=True, use_kv_cache=cached)


def test_a_picture_before_the_image():
    assert_guided_as_by_brute_force(PICTURE, cfg=True)


def test_skipped_modules():
    uncached = dataclasses.replace(CASE, arguments={**CASE.arguments, "use_kv_cache": False})
    assert_skipped_as_by_hand(uncached, LAYER, "block", BLOCK, "hidden_states")
    assert_skipped_as_by_hand(uncached, LAYER, "attention", LAYER, "hidden_states")
    assert_skipped_as_by_hand(uncached, LAYER, "feed-forward", f"{BLOCK}.img_mlp", "hidden_states")


def test_what_is_skipped_is_not_kept():
    """Keys that the second pass computes at the first step don't get into later steps."""
    pipe = CASE.pipeline()
    run = run_of(pipe, CASE, num_inference_steps=3)
    plain = run()
    with SkipLayerGuidance(layers="b1", scale=1e-6, skip="block").attach(pipe):
        assert difference(run(), plain) < 1e-4


def test_no_cfg_at_the_first_step():
    """The cache of the prompt that a rule leaves out is filled all the same."""
    pipe = CASE.pipeline()
    results = []
    for cached in (False, True):
        with GuidanceInterval(steps="0.5:1").attach(pipe):
            results.append(run_of(pipe, CASE, cfg=True, use_kv_cache=cached)())
    assert difference(*results) < TOLERANCE


@pytest.mark.parametrize(
    "guidance",
    [PerturbedAttentionGuidance(layers="b1"), SmoothedEnergyGuidance(layers="b1", on="key")],
)
@pytest.mark.parametrize("cached", [False, True])
def test_what_needs_keys_of_the_same_tokens_is_refused(guidance, cached):
    pipe = CASE.pipeline()
    with guidance.attach(pipe), pytest.raises(AttentionBackendError, match="of the same tokens"):
        run_of(pipe, CASE, use_kv_cache=cached, num_inference_steps=1)()


def test_a_weaker_denoiser_has_other_keys():
    pipe = CASE.pipeline()
    guidance = Autoguidance(weak=pipe.transformer)
    with guidance.attach(pipe), pytest.raises(RuntimeError, match="kv_cache"):
        run_of(pipe, CASE)()


def test_fused():
    pipe = CASE.pipeline()
    argument = Arguments({"img_shapes": [[(1, 2, 2), (1, 6, 4)]]}.get)
    layout = family_of(pipe.transformer).latent_layout(pipe.transformer, argument)
    latents = torch.arange(8 * 24.0).view(1, 8, 6, 4)
    packed = pipe._pack_latents(latents, 1, 8, 6, 4)
    assert torch.equal(layout.unpack(packed), latents)
    assert torch.equal(layout.pack(latents, packed), packed)
