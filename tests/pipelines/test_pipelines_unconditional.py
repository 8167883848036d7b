"""Pipelines without a prompt: guided they equal brute force."""

import math

import pytest
import torch
from brute_force_guidance import BlurredLogits, Term
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
)
from tiny_pipelines import assert_guided_as_by_brute_force, new_pixel_unet, quiet

from smoothed_energy import SmoothedEnergyGuidance

MID = "mid_block.attentions.0"
BOTH = (True, False)


def pictures_of(pipe, **arguments):
    def run():
        torch.manual_seed(7)
        generator = torch.Generator().manual_seed(7)
        return pipe(
            batch_size=2,
            num_inference_steps=3,
            output_type="np",
            generator=generator,
            **arguments,
        ).images

    return run


def pixel_pipe(cls, size, **changes):
    scheduler = {DDPMPipeline: DDPMScheduler, DDIMPipeline: DDIMScheduler}[cls]
    variance = {"variance_type": "learned_range"} if changes.get("out_channels") == 6 else {}
    model = new_pixel_unet(sample_size=size, **changes)
    return quiet(cls(unet=model, scheduler=scheduler(**variance)))


@pytest.mark.parametrize("cls", [DDPMPipeline, DDIMPipeline])
@pytest.mark.parametrize(
    ("size", "grid", "sigma"),
    [(16, (8, 8), 1.0), ((12, 20), (6, 10), 1.0), ((10, 6), (5, 3), math.inf)],
)
def test_unconditional_pipelines_equal_brute_force(cls, size, grid, sigma):
    pipe = pixel_pipe(cls, size)
    term = Term({MID: grid}, sigma=sigma)
    assert_guided_as_by_brute_force(pipe, pictures_of(pipe), term, replay=BOTH)


def test_a_scale_of_minus_one_is_the_perturbed_prediction_alone():
    pipe = pixel_pipe(DDIMPipeline, 16)
    run = pictures_of(pipe)
    plain = run()
    with SmoothedEnergyGuidance(blur="gaussian:1", scale=-1, layers="mid").attach(pipe):
        alone = run()
    pipe.unet.get_submodule(MID).set_processor(BlurredLogits((8, 8), 1.0))
    blurred = run()
    assert abs(blurred - plain).max() > 1e-3
    assert abs(alone - blurred).max() < 1e-5


@pytest.mark.parametrize(
    "grids",
    [
        {"down_blocks.1.attentions.0": (6, 4)},
        {"up_blocks.0.attentions.0": (6, 4), "up_blocks.0.attentions.1": (6, 4)},
        {"down_blocks.1.attentions.0": (6, 4), MID: (6, 4)},
    ],
    ids=["down", "up", "down+mid"],
)
def test_attention_blocks_of_a_pixel_unet_equal_brute_force(grids):
    pipe = pixel_pipe(
        DDPMPipeline,
        (12, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    term = Term(grids, scale=1.0)
    assert_guided_as_by_brute_force(pipe, pictures_of(pipe), term, replay=BOTH)


def test_stochastic_ddim_equals_brute_force():
    pipe = pixel_pipe(DDIMPipeline, (12, 8))
    run = pictures_of(pipe, eta=1.0)
    assert_guided_as_by_brute_force(pipe, run, Term({MID: (6, 4)}))


def test_consistency_models_equal_brute_force():
    scheduler = CMStochasticIterativeScheduler()
    pipe = quiet(ConsistencyModelPipeline(unet=new_pixel_unet(sample_size=8), scheduler=scheduler))
    term = Term({MID: (4, 4)})
    assert_guided_as_by_brute_force(pipe, pictures_of(pipe), term)


def test_a_learned_variance_is_left_alone():
    pipe = pixel_pipe(DDPMPipeline, (12, 8), out_channels=6)
    term = Term({MID: (6, 4)})
    assert_guided_as_by_brute_force(pipe, pictures_of(pipe), term, variance=True)
