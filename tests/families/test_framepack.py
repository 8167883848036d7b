"""Guidance of HunyuanVideo Framepack."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_skipped_as_by_hand
from tiny_framepack import CASES, transformer

from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families import Arguments, family_of

CASE = CASES[0]


@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(cfg, sigma):
    """The tokens of given frames are left alone."""
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma, temporal=1.0)


@pytest.mark.parametrize("layer", list(CASE.images))
def test_skipped(layer):
    block = layer.rpartition(".")[0]
    both = ("hidden_states", "encoder_hidden_states")
    assert_skipped_as_by_hand(CASE, layer, "block", block, *both)


def test_too_few_tokens_are_refused():
    given = {"hidden_states": CASE.arguments["prompt_embeds"].new_zeros(1, 4, 3, 12, 8)}
    family = family_of(transformer())
    assert family.tokens(transformer(), Arguments(given.get), "b", 75).start == 0
    with pytest.raises(GridError, match="given frames"):
        family.tokens(transformer(), Arguments(given.get), "b", 71)
