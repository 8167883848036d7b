"""Guidance of Flux."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_flux import CASES, MORE, POOLED, WIDTH, transformer
from tiny_pipelines import noise

from smoothed_energy import SkipLayerGuidance, SmoothedEnergyGuidance
from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families import family_of
from smoothed_energy.families.layer_selection import LayerError

BOTH = ("hidden_states", "encoder_hidden_states")
LAYERS = tuple(CASES[0].images)


def of(*cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.family)


@of(*CASES)
@pytest.mark.parametrize(("cfg", "sigma"), [(False, 1.0), (False, math.inf), (True, 1.0)])
def test_as_by_brute_force(case, cfg, sigma):
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=sigma)


@of(*MORE)
def test_other_pipelines(case):
    assert_guided_as_by_brute_force(case, cfg=True, sigma=math.inf)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASES[0], cfg=True, formulation="unconditional")


def test_a_scale_without_a_negative_prompt_is_no_cfg():
    assert_guided_as_by_brute_force(CASES[0], true_cfg_scale=4.0)


@pytest.mark.parametrize("layer", LAYERS)
def test_skipped_blocks(layer):
    block = layer.rpartition(".")[0]
    assert_skipped_as_by_hand(CASES[0], layer, "block", block, *BOTH[::-1])


def test_skipped_attention():
    double, single = LAYERS
    assert_skipped_as_by_hand(CASES[0], double, "attention", double, *BOTH)
    assert_skipped_as_by_hand(CASES[0], single, "attention", single, "hidden_states")


def test_skipped_feed_forward():
    double, single = LAYERS
    assert_skipped_as_by_hand(
        CASES[0], double, "feed-forward", "transformer_blocks.1.ff", "hidden_states"
    )
    with pytest.raises(LayerError, match="no feed-forward network to skip"):
        SkipLayerGuidance(layers=single, skip="feed-forward").attach(transformer())


@of(CASES[1])
@pytest.mark.parametrize("layer", LAYERS)
def test_shuffled_tokens(case, layer):
    assert_shuffled_as_by_hand(case, layer)


def test_steps_of_a_pipeline_that_does_not_tell_them():
    """The denoiser is told a thousandth of the timestep."""
    controlnet = MORE[1]
    assert not hasattr(controlnet.pipeline(), "_current_timestep")
    assert_shuffled_as_by_hand(controlnet, LAYERS[0])


def test_positions_are_no_rows():
    """Six rows with six text tokens: half of the rows, and all positions."""
    inputs = {
        "hidden_states": noise(6, 12, 16, seed=1),
        "encoder_hidden_states": noise(6, 6, WIDTH, seed=2),
        "pooled_projections": noise(6, POOLED, seed=3),
        "timestep": torch.full((6,), 0.5),
        "guidance": torch.full((6,), 3.5),
    }
    positions = {"img_ids": places(0, 3, 4), "txt_ids": torch.zeros(6, 3)}
    conditional = {name: value[3:] for name, value in inputs.items()}
    denoiser = transformer()
    guidance = SmoothedEnergyGuidance(layers="b1")
    with torch.no_grad():
        clean = denoiser(**inputs, **positions).sample
        with guidance.attach(denoiser) as attachment:
            attachment.step(0, 1)
            alone = denoiser(**conditional, **positions).sample
            attachment.step(0, 1, conditional_rows=3)
            together = denoiser(**inputs, **positions).sample
    delta = alone - clean[3:]
    assert delta.abs().max() > 1e-2
    assert torch.allclose(together, clean + delta.repeat(2, 1, 1), atol=1e-5)


def test_names_of_layers():
    layers = family_of(transformer()).layers(transformer())
    assert [layer.code for layer in layers] == ["b0", "b1", "s0", "s1", "s2"]


def grid_of(places):
    return family_of(transformer()).grid(transformer(), {"img_ids": places}.get)


def places(picture, height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    found = [torch.full_like(rows, picture), rows, columns]
    return torch.stack(found, dim=-1).reshape(-1, 3).float()


@pytest.mark.parametrize("grid", [(1, 7), (7, 1), (300, 520)])
def test_grid_in_half_precision(grid):
    """Positions above 256 are rounded."""
    positions = places(0, *grid).bfloat16()
    assert grid_of(positions) == grid
    assert grid_of(positions[None]) == grid
    assert grid_of(torch.cat([positions, places(1, 3, 5).bfloat16()])) == grid


def test_image_among_pictures_is_refused():
    assert grid_of(places(1, 4, 6)) == (4, 6)
    with pytest.raises(GridError, match="of several pictures, counted from 1"):
        grid_of(torch.cat([places(1, 4, 6), places(2, 4, 6)]))
