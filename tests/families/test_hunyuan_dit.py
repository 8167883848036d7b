"""Guidance of HunyuanDiT."""

import dataclasses
import math

import pytest
import torch
from brute_force_attention import Image
from comparison import assert_guided_as_by_brute_force, run_of
from diffusers import HunyuanDiT2DControlNetModel, HunyuanDiTControlNetPipeline
from tiny_hunyuan_dit import CASES, SETTINGS, hunyuan_dit, prompts
from tiny_pipelines import picture

from smoothed_energy.methods import SlidingWindowGuidance

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)


@CASE
@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(case, sigma):
    assert_guided_as_by_brute_force(case, cfg=True, sigma=sigma)


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.family)
@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_without_cfg(case, sigma):
    assert_guided_as_by_brute_force(case, sigma=sigma)


@CASE
def test_unconditional_formulation(case):
    assert_guided_as_by_brute_force(case, cfg=True, formulation="unconditional")


def test_positions_are_no_samples():
    # 8 rows, [u, c] of 4 prompts, and 8 tokens with a row each in the rotary embedding.
    arguments = {**CASES[0].arguments, **prompts(4), "height": 64, "width": 32}
    images = dict.fromkeys(CASES[0].images, Image((4, 2)))
    case = dataclasses.replace(CASES[0], arguments=arguments, images=images)
    assert_guided_as_by_brute_force(case, cfg=True)


def test_windows_would_need_other_positions():
    pipe = CASES[0].pipeline()
    run = run_of(pipe, CASES[0], cfg=True)
    with (
        SlidingWindowGuidance().attach(pipe),
        pytest.raises(ValueError, match="image_rotary_emb"),
    ):
        run()


def with_controlnet():
    torch.manual_seed(3)
    controlnet = HunyuanDiT2DControlNetModel(transformer_num_layers=4, **SETTINGS).eval()
    with torch.no_grad():
        for parameter in controlnet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    pipe = hunyuan_dit(HunyuanDiTControlNetPipeline, controlnet=controlnet)
    forward = pipe.transformer.forward

    def with_a_copy(*args, controlnet_block_samples, **kwargs):
        return forward(*args, controlnet_block_samples=list(controlnet_block_samples), **kwargs)

    # For the brute force, which takes it away when it is done: the denoiser empties the list.
    pipe.transformer.forward = with_a_copy
    return pipe


@pytest.mark.parametrize("cfg", [False, True])
def test_controlnet(cfg):
    arguments = {**CASES[0].arguments, "control_image": picture()}
    case = dataclasses.replace(CASES[0], pipeline=with_controlnet, arguments=arguments)
    assert_guided_as_by_brute_force(case, cfg=cfg)
