"""Guidance of Stable Video Diffusion."""

import dataclasses
import math

import pytest
from brute_force_animatediff import FoldedImage
from comparison import assert_guided_as_by_brute_force, run_of
from fusion_in_places import assert_fused_as_by_brute_force
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_svd import CASES, GRID, MID, MID_OVER_TIME, MORE, svd, unet

from smoothed_energy import AdaptiveProjectedGuidance, SmoothedEnergyGuidance
from smoothed_energy.families import family_of

CASE = pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.family)
UP = "up_blocks.1.attentions.1.temporal_transformer_blocks.0.attn1"


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True, sigma=1.0, temporal=1.0)


def test_infinite_sigma_without_cfg():
    assert_guided_as_by_brute_force(CASES[0], sigma=math.inf, temporal=math.inf)


def test_odd_sizes():
    images = {MID: FoldedImage((2, 5, 3)), UP: FoldedImage((2, 9, 5), over="time")}
    case = dataclasses.replace(CASES[0], images=images)
    sizes = {"height": 72, "width": 40, "num_frames": 2}
    assert_guided_as_by_brute_force(case, cfg=True, sigma=1.0, temporal=1.0, **sizes)


def test_skipped_and_shuffled():
    (case,) = MORE
    (layer,) = case.images
    block = layer.rpartition(".")[0]
    assert_skipped_as_by_hand(case, layer, "block", block, "hidden_states")
    # What a block over time gets are the tokens of each frame, too.
    within = {layer: FoldedImage(GRID[1:])}
    assert_shuffled_as_by_hand(dataclasses.replace(case, images=within), layer)


def test_one_scale_for_all_frames():
    equal = {"min_guidance_scale": 5.0, "max_guidance_scale": 5.0}
    (case,) = CASES
    case = dataclasses.replace(case, cfg=equal, combined=lambda c, u, g: u + g * (c - u))
    assert_fused_as_by_brute_force(case)


@pytest.mark.parametrize(
    "guidance", [SmoothedEnergyGuidance(layers="m0", combine="fuse"), AdaptiveProjectedGuidance()]
)
def test_a_scale_for_each_frame_is_none_that_is_known(guidance):
    pipe = svd()
    with guidance.attach(pipe), pytest.raises(ValueError, match="min_guidance_scale"):
        run_of(pipe, CASES[0], cfg=True)()


def test_layers_are_counted_in_the_order_in_which_they_run():
    layers = family_of(unet()).layers(unet())
    names = [layer.name for layer in layers]
    assert names.index(MID_OVER_TIME) == names.index(MID) + 1
    assert [layer.code for layer in layers] == ["d0", "t0", "m0", "t1", "u0", "t2", "u1", "t3"]
    seen = []
    hooks = [
        unet()
        .get_submodule(name)
        .register_forward_pre_hook(lambda module, args, name=name: seen.append(name))
        for name in names
    ]
    run_of(svd(), CASES[0], num_inference_steps=1)()
    for hook in hooks:
        hook.remove()
    assert seen == names


def test_levels_of_its_timesteps():
    pipe = svd()
    # The first step has the level 20; the scheduler's timesteps are quarters of its logarithm.
    with SmoothedEnergyGuidance(layers="m0", steps="sigma:0:1").attach(pipe) as attachment:
        run_of(pipe, CASES[0])()
    assert attachment.last_run.guided_calls == 1
