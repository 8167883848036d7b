"""Guidance of sounds, whose tokens lie along one axis."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from fusion_in_places import assert_fused_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_ace_step import CASES as ACE_STEP
from tiny_audioldm import MORE as SPECTROGRAMS
from tiny_longcat_audio import CASES as LONGCAT
from tiny_pipelines import TOLERANCE, difference
from tiny_stable_audio import CASES as STABLE
from tiny_stable_audio import MORE

from smoothed_energy import (
    PerturbedAttentionGuidance,
    SlidingWindowGuidance,
    SmoothedEnergyGuidance,
)

CASE = pytest.mark.parametrize("case", [*STABLE, *LONGCAT], ids=lambda case: case.family)


@pytest.mark.parametrize("case", [*STABLE, *LONGCAT, *SPECTROGRAMS], ids=lambda case: case.family)
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True)


@CASE
def test_infinite_sigma_without_cfg(case):
    assert_guided_as_by_brute_force(case, sigma=math.inf)


@CASE
def test_skipped_and_shuffled(case):
    ((layer, image),) = case.images.items()
    assert_skipped_as_by_hand(case, layer, "block", layer.rpartition(".")[0], "hidden_states")
    assert_skipped_as_by_hand(case, layer, "attention", layer, "hidden_states")
    assert_shuffled_as_by_hand(case, layer, image.start)


@CASE
def test_fused(case):
    assert_fused_as_by_brute_force(case)


@pytest.mark.parametrize("case", MORE, ids=lambda case: case.family)
def test_of_a_sound(case):
    assert_guided_as_by_brute_force(case)


def test_music_of_a_distilled_model():
    (case,) = ACE_STEP
    assert_guided_as_by_brute_force(case)
    assert_guided_as_by_brute_force(case, sigma=math.inf)
    layer = next(iter(case.images))
    block = layer.rpartition(".")[0]
    assert_skipped_as_by_hand(case, layer, "block", block, "hidden_states")
    assert_skipped_as_by_hand(case, layer, "attention", layer, "hidden_states")
    assert_skipped_as_by_hand(case, layer, "feed-forward", f"{block}.mlp", "hidden_states")
    assert_shuffled_as_by_hand(case, layer)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"guidance_scale": 7.0}, "adaptive projected guidance by itself"),
        ({"audio_cover_strength": 0.5}, "predictions for two prompts"),
    ],
)
def test_what_makes_another_thing_of_corrected_predictions(changes, reason):
    (case,) = ACE_STEP
    pipe = case.pipeline()
    run = run_of(pipe, case, **changes)
    with SmoothedEnergyGuidance().attach(pipe), pytest.raises(RuntimeError, match=reason):
        run()


def test_identity_where_heads_share_values():
    (case,) = ACE_STEP
    pipe = case.pipeline()
    layer = next(iter(case.images))
    attention = pipe.transformer.get_submodule(layer)
    forward = attention.forward

    def values_alone(hidden_states, **given):
        values = attention.to_v(hidden_states).unflatten(-1, (2, 8))
        return attention.to_out[0](values.repeat_interleave(2, dim=2).flatten(2))

    run = run_of(pipe, case, num_inference_steps=1)
    plain = run()
    attention.forward = values_alone
    perturbed = run()
    attention.forward = forward
    # A step is linear in the prediction.
    with PerturbedAttentionGuidance(scale=2.0, layers=[layer]).attach(pipe):
        assert difference(run(), plain + 2.0 * (plain - perturbed)) < TOLERANCE


@CASE
def test_windows_are_refused(case):
    pipe = case.pipeline()
    with SlidingWindowGuidance().attach(pipe), pytest.raises(ValueError, match="sliding window"):
        run_of(pipe, case)()
