"""Guidance of AuraFlow."""

import dataclasses

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from tiny_auraflow import CASES

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.families.layer_selection import select_layers

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)


@CASE
@pytest.mark.parametrize("stack", ["joint", "single"])
def test_one_stream_or_two(case, stack):
    images = {name: image for name, image in case.images.items() if name.startswith(stack)}
    assert len(images) == 1
    assert_guided_as_by_brute_force(dataclasses.replace(case, images=images), cfg=True)


@CASE
def test_layers_are_counted_in_both_stacks(case):
    layers = select_layers(case.pipeline().transformer, "all")
    assert [layer.code for layer in layers] == ["b0", "b1", "s0", "s1", "s2"]


@CASE
def test_the_time_is_a_fraction(case):
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=True, num_inference_steps=4)
    with SmoothedEnergyGuidance(steps="0.25:0.75").attach(pipe) as attachment:
        run()
    assert attachment.last_run.calls == 4
    assert attachment.last_run.guided_calls == 2
