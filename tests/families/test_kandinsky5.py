"""Guidance of Kandinsky 5."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force, run_of
from diffusers.models.transformers import transformer_kandinsky
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_kandinsky5 import CASES, MORE, transformer

from smoothed_energy import PerturbedAttentionGuidance, SmoothedEnergyGuidance
from smoothed_energy.denoisers.latent_layout import ChannelsLast
from smoothed_energy.families.layer_selection import LayerError
from smoothed_energy.methods import SlidingWindowGuidance

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]


@pytest.mark.parametrize(
    ("cfg", "sigma", "temporal"),
    [(False, 1.0, None), (False, math.inf, math.inf), (True, 1.0, 1.0), (True, 0.0, 1.0)],
)
def test_as_by_brute_force(cfg, sigma, temporal):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma, temporal=temporal)


@pytest.mark.parametrize("case", MORE, ids=lambda case: case.family)
def test_other_pipelines(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_rounded_as_the_model_rounds(monkeypatch):
    monkeypatch.setattr(transformer_kandinsky, "torch", torch)
    assert_guided_as_by_brute_force(CASE, cfg=True, tolerance=2e-3)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASE, cfg=True, formulation="unconditional")


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "block", BLOCK, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.feed_forward", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)


def test_channels_come_last():
    video = torch.randn(2, 3, 4, 5, 6)
    assert ChannelsLast().unpack(video).shape == (2, 6, 3, 4, 5)
    assert torch.equal(ChannelsLast().pack(ChannelsLast().unpack(video), video), video)


def test_windows_would_need_other_positions():
    pipe = CASE.pipeline()
    windows = SlidingWindowGuidance().attach(pipe)
    with windows, pytest.raises(ValueError, match="visual_rope_pos"):
        run_of(pipe, CASE)()


def test_sparse_attention_has_no_softmax_to_see():
    denoiser = transformer(attention_type="nabla")
    with pytest.raises(LayerError, match="softmax"):
        SmoothedEnergyGuidance(layers=LAYER).attach(denoiser)
    # Nor are its values where the identity in place of attention looks for them.
    with pytest.raises(LayerError, match="sparse or linear attention"):
        PerturbedAttentionGuidance(layers=LAYER).attach(denoiser)
