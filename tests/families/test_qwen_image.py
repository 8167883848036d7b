"""Guidance of Qwen-Image."""

import math

import pytest
from comparison import assert_guided_as_by_brute_force
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit_plus,
    pipeline_qwenimage_layered,
)
from fusion_in_places import assert_fused_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_qwen_image import CASES, EDIT, LAYERED, transformer

from smoothed_energy.families import family_of

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BOTH = ("hidden_states", "encoder_hidden_states")


@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(cfg, sigma):
    assert_guided_as_by_brute_force(CASE, cfg=cfg, sigma=sigma)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASE, cfg=True, formulation="unconditional")


def test_a_scale_without_a_negative_prompt_is_no_cfg():
    assert_guided_as_by_brute_force(CASE, true_cfg_scale=4.0)


@pytest.fixture
def _small_pictures(monkeypatch):
    """The pipelines make pictures large, whatever they get."""
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", 96 * 64)
    monkeypatch.setattr(pipeline_qwenimage_layered, "calculate_dimensions", lambda *_: (64, 96))


@pytest.mark.usefixtures("_small_pictures")
@pytest.mark.parametrize("cfg", [False, True])
def test_pictures_after_the_image(cfg):
    assert_guided_as_by_brute_force(EDIT, cfg=cfg)


@pytest.mark.usefixtures("_small_pictures")
@pytest.mark.parametrize("temporal", [None, 1.0])
def test_layers_are_frames(temporal):
    assert_guided_as_by_brute_force(LAYERED, cfg=True, temporal=temporal)


@pytest.mark.usefixtures("_small_pictures")
def test_layers_are_fused_as_frames():
    assert_fused_as_by_brute_force(LAYERED)


def test_skipped_modules():
    block = LAYER.rpartition(".")[0]
    assert_skipped_as_by_hand(CASE, LAYER, "block", block, *BOTH[::-1])
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, *BOTH)
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{block}.img_mlp", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)


@pytest.mark.parametrize(
    ("shapes", "layered", "grid"),
    [
        ([(1, 6, 4)] * 2, False, (6, 4)),
        ([[(1, 6, 4)]] * 2, False, (6, 4)),
        ([[(1, 6, 4), (1, 6, 4)]] * 2, False, (6, 4)),
        ([[(1, 6, 4)] * 3 + [(1, 2, 5)]] * 2, True, (3, 6, 4)),
    ],
    ids=["ControlNet", "plain", "edit", "layered"],
)
def test_grid(shapes, layered, grid):
    denoiser = transformer(use_layer3d_rope=layered)
    assert family_of(denoiser).grid(denoiser, {"img_shapes": shapes}.get) == grid
