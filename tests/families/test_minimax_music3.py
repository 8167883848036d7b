"""Guidance of MiniMax Music 3, by the guider."""

import math

import pytest
from guiders import assert_guider_as_by_brute_force
from tiny_minimax_music3 import CASES


@pytest.mark.parametrize("changes", [{"cfg": False}, {}, {"sigma": math.inf}], ids=str)
def test_as_by_brute_force(changes):
    """Each window is a run of its own."""
    assert_guider_as_by_brute_force(CASES[0], **changes)
