"""Guidance of Bria Fibo 2."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_skipped_as_by_hand
from tiny_bria_fibo2 import CASES, DIFFERENT, WIDTH, transformer, words
from tiny_pipelines import noise

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families import Arguments, family_of

CASE = CASES[0]


@pytest.mark.parametrize(
    ("case", "cfg", "sigma"),
    [(CASE, False, 1.0), (CASE, False, math.inf), (CASE, True, 1.0), (DIFFERENT, True, 1.0)],
)
def test_as_by_brute_force(case, cfg, sigma):
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=sigma)


def test_skipped_modules():
    layer = "layers.1.attention"
    alone = "noise_refiner.1.attention"
    assert_skipped_as_by_hand(CASE, alone, "block", "noise_refiner.1", "hidden_states")
    assert_skipped_as_by_hand(CASE, layer, "attention", layer, "hidden_states")


def test_pictures_that_are_edited():
    """They follow the image, and those of other sizes change nothing."""
    given = {
        "hidden_states": torch.zeros(2, 4, 12, 8),
        "encoder_hidden_states": torch.zeros(2, 2, 10, WIDTH),
        "encoder_attention_mask": words(5, 6),
        "context_latents": [torch.zeros(2, 4, 8, 4)],
    }
    family, arguments = family_of(transformer()), Arguments(given.get)
    found = family.tokens(transformer(), arguments, "layers.1.attention", 6 + 24 + 8)
    assert (found.grid, found.start) == ((6, 4), 6)
    found = family.tokens(transformer(), arguments, "noise_refiner.1.attention", 24 + 8)
    assert (found.grid, found.start) == ((6, 4), 0)


def test_rows_that_would_lie_elsewhere_are_refused():
    given = {
        "hidden_states": noise(2, 4, 12, 8),
        "timestep": torch.full((2,), 0.5),
        "encoder_hidden_states": noise(2, 2, 10, WIDTH, seed=2),
        "encoder_attention_mask": words(5, 10),
    }
    guidance = SmoothedEnergyGuidance(layers="b1")
    with guidance.attach(transformer()) as attachment, torch.no_grad():
        attachment.step(0, 1, conditional_rows=1)
        with pytest.raises(GridError, match="may lie elsewhere"):
            transformer()(**given)
