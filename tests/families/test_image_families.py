"""Guidance of families of pictures that need no tests of their own for this."""

import math

import pytest
import tiny_auraflow
import tiny_kolors
import tiny_pixart
import tiny_sd3
from comparison import assert_guided_as_by_brute_force

CASE = pytest.mark.parametrize(
    "case",
    [*tiny_auraflow.CASES, *tiny_kolors.CASES, *tiny_pixart.CASES, *tiny_sd3.CASES],
    ids=lambda case: case.family,
)


@CASE
@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(case, cfg, sigma):
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=sigma)


@CASE
def test_unconditional_formulation(case):
    assert_guided_as_by_brute_force(case, cfg=True, formulation="unconditional")
