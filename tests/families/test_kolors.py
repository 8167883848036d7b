"""Guidance of Kolors."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from tiny_kolors import CASES

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)


@CASE
@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(case, cfg, sigma):
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=sigma)


@CASE
def test_unconditional_formulation(case):
    assert_guided_as_by_brute_force(case, cfg=True, formulation="unconditional")
