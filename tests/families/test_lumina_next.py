"""Guidance of Lumina-Next."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_lumina_next import CASES

from smoothed_energy import SkipLayerGuidance, SmoothedEnergyGuidance
from smoothed_energy.families.layer_selection import LayerError

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
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.feed_forward", "hidden_states")


def test_attention_gives_heads_apart():
    with pytest.raises(LayerError, match=r"heads apart.*feed-forward"):
        SkipLayerGuidance(layers=LAYER, skip="attention").attach(CASE.pipeline())


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)


def test_there_is_no_one_scale_of_cfg():
    pipe = CASE.pipeline()
    guidance = SmoothedEnergyGuidance(layers=LAYER, combine="fuse")
    with guidance.attach(pipe), pytest.raises(ValueError, match="Lumina-Next"):
        run_of(pipe, CASE, cfg=True)()


def test_the_time_runs_backwards():
    pipe = CASE.pipeline()
    with SmoothedEnergyGuidance(steps="0:0.25").attach(pipe) as attachment:
        run_of(pipe, CASE, num_inference_steps=4)()
    assert (attachment.last_run.calls, attachment.last_run.guided_calls) == (4, 1)
