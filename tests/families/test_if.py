"""Guidance of DeepFloyd IF."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from tiny_if import CASES, MORE

CASE = pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.family)


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_infinite_sigma_without_cfg():
    assert_guided_as_by_brute_force(CASES[0], sigma=math.inf)
