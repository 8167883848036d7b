"""Guidance of UnCLIP's decoder."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from tiny_kandinsky2 import combined
from tiny_unclip import MORE, of_prompts

from smoothed_energy.integrations.pipeline import find_denoisers

CASE = pytest.mark.parametrize("case", MORE, ids=lambda case: case.family)


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_infinite_sigma_without_cfg():
    assert_guided_as_by_brute_force(MORE[0], sigma=math.inf)


def test_what_is_guided_is_the_stage_that_draws():
    pipe = of_prompts()
    assert find_denoisers(pipe) == (pipe.decoder,)
    assert find_denoisers(combined()) == (combined().unet,)
