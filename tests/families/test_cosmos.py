"""Guidance of Cosmos."""

import pytest
from brute_force_in_calls import assert_guided_in_calls
from comparison import run_of
from replaced_modules import assert_skipped_as_by_hand
from tiny_cosmos import CASES, MORE

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.integrations.pipeline_facts import batch_layout

CASE = CASES[0]
BLOCK = "transformer_blocks.1"


@pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.family)
def test_as_by_brute_force(case):
    assert_guided_in_calls(case, cfg=True)


def test_without_cfg():
    assert_guided_in_calls(CASE, cfg=False)


def test_skipped():
    assert_skipped_as_by_hand(CASE, f"{BLOCK}.attn1", "block", BLOCK, "hidden_states")


def test_the_scale_is_one_more_than_that_of_the_pipeline():
    pipe = MORE[0].pipeline()
    found = []

    def see(pipe, index, timestep, tensors):
        found.append(batch_layout(pipe, pipe.transformer, {}, lambda: None))
        return tensors

    with SmoothedEnergyGuidance(layers="mid", steps="0:0.5").attach(pipe) as attachment:
        run_of(pipe, MORE[0], cfg=True, num_inference_steps=4, callback_on_step_end=see)()
    assert {layout.cfg_scale for layout in found} == {MORE[0].scale}
    assert attachment.last_run.guided_calls == 2
