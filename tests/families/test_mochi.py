"""Guidance of Mochi."""

import itertools
import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_mochi import CASES

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.schedule import schedule_position

CASE = CASES[0]
BLOCK = "transformer_blocks.1"


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    """Rows, whose prompts differ in length, attend one by one."""
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma, temporal=1.0)


def test_skipped_and_shuffled():
    both = ("hidden_states", "encoder_hidden_states")
    assert_skipped_as_by_hand(CASE, f"{BLOCK}.attn1", "block", BLOCK, *both)
    assert_skipped_as_by_hand(CASE, f"{BLOCK}.attn1", "attention", f"{BLOCK}.attn1", *both)
    assert_shuffled_as_by_hand(CASE, f"{BLOCK}.attn1")


@pytest.mark.parametrize(("steps", "guided"), [("0:0.25", 1), ("0.5:1", 2)])
def test_steps_are_those_of_the_schedule(steps, guided):
    pipe = CASE.pipeline()
    seen = []

    def see(pipe, index, timestep, tensors):
        seen.append(timestep)
        return tensors

    guidance = SmoothedEnergyGuidance(layers="mid", steps=steps)
    with guidance.attach(pipe) as attachment:
        run_of(pipe, CASE, num_inference_steps=4, callback_on_step_end=see)()
    assert (attachment.last_run.calls, attachment.last_run.guided_calls) == (4, guided)
    levels = [schedule_position(pipe.scheduler, time) for time in seen]
    assert [level.index for level in levels] == [0, 1, 2, 3]
    assert levels[0].sigma == math.inf
    assert all(one.sigma > two.sigma for one, two in itertools.pairwise(levels))
