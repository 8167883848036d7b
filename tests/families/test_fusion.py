"""Fusion with CFG compares places, so it needs to know where the numbers of a prediction are."""

import pytest
import torch
from fusion_in_places import assert_fused_as_by_brute_force
from methods_by_family import cases

from smoothed_energy.denoisers.latent_layout import FramesFirst, Packed

# Sana and Sana-Video have no softmax that could be smoothed, Lumina-Next and Stable Video Diffusion
# have no one scale of CFG, and what Cosmos' scheduler gets under CFG is no sum of predictions.
LEFT_OUT = ("Sana", "Sana-Video", "Lumina-Next", "Cosmos", "Stable Video Diffusion")
# Wan Animate 2 has none that could be smoothed, either.
LEFT_OUT += ("Wan Animate 2",)
# Their layouts are tested beside them, and no whole runs with fusion yet.
LEFT_OUT += ("Ideogram 4", "JoyImage-Edit Plus", "Qwen-Image 2.1")
CASES = [case for case in cases() if case.cfg is not None and case.family not in LEFT_OUT]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_it_is_its_formula_where_the_numbers_are(case):
    assert_fused_as_by_brute_force(case)


@pytest.mark.parametrize(
    ("grid", "patch"), [((3, 2), (2, 4)), ((2, 3, 4), (1, 2, 1)), ((5,), (2,))]
)
def test_packing_undoes_unpacking(grid, patch):
    places = Packed(grid, patch)
    tokens = torch.randn(2, torch.Size(grid).numel() + 3, 5 * torch.Size(patch).numel())
    unpacked = places.unpack(tokens)
    assert unpacked.shape == (2, 5, *(a * b for a, b in zip(grid, patch, strict=True)))
    again = places.pack(unpacked, tokens)
    assert torch.equal(again[:, :-3], tokens[:, :-3])
    assert not again[:, -3:].any()


def test_frames_come_after_channels():
    video = torch.randn(2, 3, 4, 5, 6)
    assert FramesFirst().unpack(video).shape == (2, 4, 3, 5, 6)
    assert torch.equal(FramesFirst().pack(FramesFirst().unpack(video), video), video)
