"""Guidance of CogView 3 Plus and CogView 4."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_cogview import CASES, CONTROL
from tiny_pipelines import noise

from smoothed_energy import SmoothedEnergyGuidance

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
LAYER = next(iter(CONTROL.images))
BLOCK = LAYER.rpartition(".")[0]
BOTH = ("hidden_states", "encoder_hidden_states")


@CASE
@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(case, cfg, sigma):
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=sigma)


def test_a_picture_that_follows_the_latents():
    assert_guided_as_by_brute_force(CONTROL, cfg=True)


@CASE
def test_unconditional_formulation(case):
    assert_guided_as_by_brute_force(case, cfg=True, formulation="unconditional")


@CASE
def test_skipped_modules(case):
    assert_skipped_as_by_hand(case, LAYER, "block", BLOCK, *BOTH)
    assert_skipped_as_by_hand(case, LAYER, "attention", LAYER, *BOTH)
    assert_skipped_as_by_hand(case, LAYER, "feed-forward", f"{BLOCK}.ff", "hidden_states")


@CASE
def test_shuffled_tokens(case):
    assert_shuffled_as_by_hand(case, LAYER)


def test_rotary_embedding_has_no_rows_for_samples():
    """Six rows, and six tokens with a row each in the rotary embedding."""
    denoiser = CASES[1].pipeline().transformer
    sizes = dict.fromkeys(("original_size", "target_size", "crop_coords"), torch.zeros(6, 2))
    latents = noise(6, 4, 4, 6, seed=1)
    given = {
        "hidden_states": latents,
        "encoder_hidden_states": noise(6, 5, 16, seed=2),
        "timestep": torch.full((6,), 500.0),
        **sizes,
    }
    rotary = denoiser.rope(latents)
    with torch.no_grad():
        clean = denoiser(**given).sample
        with SmoothedEnergyGuidance(layers="b1").attach(denoiser) as attachment:
            attachment.step(0, 1)
            alone = denoiser(**{name: value[3:] for name, value in given.items()}).sample
            attachment.step(0, 1, conditional_rows=3)
            together = denoiser(**given, image_rotary_emb=rotary).sample
    delta = alone - clean[3:]
    assert delta.abs().max() > 1e-2
    assert torch.allclose(together, clean + delta.repeat(2, 1, 1, 1), atol=1e-5)
