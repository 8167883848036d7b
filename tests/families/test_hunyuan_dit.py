"""Guidance of HunyuanDiT."""

import dataclasses
import math

import pytest
from brute_force_attention import Image
from comparison import assert_guided_as_by_brute_force, run_of
from tiny_hunyuan_dit import CASES, prompts

from smoothed_energy.methods import SlidingWindowGuidance

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)


@CASE
@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(case, sigma):
    assert_guided_as_by_brute_force(case, cfg=True, sigma=sigma)


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.family)
@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_without_cfg(case, sigma):
    assert_guided_as_by_brute_force(case, sigma=sigma)


@CASE
def test_unconditional_formulation(case):
    assert_guided_as_by_brute_force(case, cfg=True, formulation="unconditional")


def test_positions_are_no_samples():
    # 8 rows, [u, c] of 4 prompts, and 8 tokens with a row each in the rotary embedding.
    arguments = {**CASES[0].arguments, **prompts(4), "height": 64, "width": 32}
    images = dict.fromkeys(CASES[0].images, Image((4, 2)))
    case = dataclasses.replace(CASES[0], arguments=arguments, images=images)
    assert_guided_as_by_brute_force(case, cfg=True)


def test_windows_would_need_other_positions():
    pipe = CASES[0].pipeline()
    run = run_of(pipe, CASES[0], cfg=True)
    with (
        SlidingWindowGuidance().attach(pipe),
        pytest.raises(ValueError, match="image_rotary_emb"),
    ):
        run()
