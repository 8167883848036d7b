"""Guidance of LTX-Video."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force, run_of
from tiny_ltx import CASES, GRID, transformer

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families import family_of

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)


@CASE
def test_space_and_time_under_cfg(case):
    assert_guided_as_by_brute_force(case, cfg=True, sigma=1.0, temporal=1.0)


@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize(
    ("sigma", "temporal"), [(1.0, None), (0.0, 1.0), (math.inf, None), (math.inf, math.inf)]
)
def test_as_by_brute_force(cfg, sigma, temporal):
    assert_guided_as_by_brute_force(CASES[0], cfg=cfg, sigma=sigma, temporal=temporal)


@pytest.mark.parametrize("case", CASES[2:], ids=lambda case: case.family)
def test_from_images_without_cfg(case):
    assert_guided_as_by_brute_force(case, sigma=1.0, temporal=1.0)


@CASE
def test_unconditional_formulation(case):
    assert_guided_as_by_brute_force(case, cfg=True, formulation="unconditional")


def test_separate_conditioning_frames_are_refused():
    case = CASES[-1]
    pipe = case.pipeline()
    # The pipeline itself fails with more prompts here.
    one_prompt = {name: case.arguments[name][:1] for name in case.arguments if "prompt" in name}
    with (
        SmoothedEnergyGuidance(layers="mid").attach(pipe),
        pytest.raises(GridError, match="without separate conditioning frames"),
    ):
        run_of(pipe, case, frame_index=8, **one_prompt)()


def coordinates(frames):
    """Coordinates in pixels of the tokens of these frames, `(1, 3, T)`."""
    axes = [torch.tensor(frames), torch.arange(GRID[1]) * 32.0, torch.arange(GRID[2]) * 32.0]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)[None]


def grid_of(coords):
    return family_of(transformer()).grid(transformer(), {"video_coords": coords}.get)


def test_coordinates_give_the_grid():
    assert grid_of(coordinates([0.0, 0.28, 0.6])) == GRID


def test_coordinates_out_of_order_are_an_error():
    with pytest.raises(GridError, match="form no grid"):
        grid_of(coordinates([0.9, 0.0, 0.28]))
