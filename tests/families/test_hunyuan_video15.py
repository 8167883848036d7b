"""Guidance of HunyuanVideo 1.5."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from diffusers import AdaptiveProjectedGuidance
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_hunyuan_video15 import CASES, FROM_PICTURE, MORE, WITHOUT_CFG, guided, hunyuan_video15
from tiny_pipelines import difference

from smoothed_energy import SmoothedEnergyGuidance

CASE = WITHOUT_CFG
BLOCK = "transformer_blocks.1"


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(sigma):
    assert_guided_as_by_brute_force(CASE, sigma=sigma, temporal=1.0)


@pytest.mark.parametrize("case", [*CASES, *MORE, FROM_PICTURE], ids=lambda case: case.family)
def test_with_cfg(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASES[0], cfg=True, formulation="unconditional")


def test_skipped_and_shuffled():
    both = ("hidden_states", "encoder_hidden_states")
    assert_skipped_as_by_hand(CASE, f"{BLOCK}.attn", "block", BLOCK, *both)
    assert_skipped_as_by_hand(CASE, f"{BLOCK}.attn", "attention", f"{BLOCK}.attn", *both)
    assert_shuffled_as_by_hand(CASE, f"{BLOCK}.attn")


def test_cfg_in_some_of_the_steps():
    pipe = hunyuan_video15(guider=guided(stop=0.5))
    with SmoothedEnergyGuidance(layers="mid").attach(pipe) as attachment:
        first = run_of(pipe, CASE, num_inference_steps=4)()
    assert (attachment.last_run.calls, attachment.last_run.guided_calls) == (6, 4)
    pipe.guider = guided()
    with SmoothedEnergyGuidance(layers="mid").attach(pipe):
        assert difference(run_of(pipe, CASE, num_inference_steps=4)(), first) > 1e-3


def test_other_guiders_are_refused():
    pipe = hunyuan_video15(guider=AdaptiveProjectedGuidance())
    with pytest.raises(RuntimeError, match="AdaptiveProjectedGuidance does more"):
        SmoothedEnergyGuidance(layers="mid").attach(pipe)
    pipe = hunyuan_video15()
    with SmoothedEnergyGuidance(layers="mid").attach(pipe):
        pipe.guider = AdaptiveProjectedGuidance()
        with pytest.raises(RuntimeError, match="expected a ClassifierFreeGuidance"):
            run_of(pipe, CASE)()
