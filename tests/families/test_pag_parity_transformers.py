"""Perturbed-attention guidance gives what diffusers' own PAG pipelines for transformers give.

Not compared, because there diffusers' pipeline does something else or stops (diffusers 0.42):

- Stable Diffusion 3.5: its joint processors leave out the norms of queries and keys, in the
  original path too, and can't run in the second attention of a block.
- HunyuanDiT before 1.2 without CFG: three rows of image sizes for two of everything else.
- PixArt-Sigma with an adaptive scale: the timestep is a tensor of several values.
"""

import copy
import dataclasses
import functools
import importlib.util

import pytest
import tiny_hunyuan_dit
import tiny_kolors
import tiny_pixart
import tiny_sd3
from comparison import run_of
from diffusers import (
    HunyuanDiTPAGPipeline,
    KolorsPAGPipeline,
    PixArtSigmaPAGPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3PAGImg2ImgPipeline,
    StableDiffusion3PAGPipeline,
)
from tiny_pipelines import MARGIN, TOLERANCE, difference, picture, vae

from smoothed_energy.methods import PerturbedAttentionGuidance

CFG = pytest.mark.parametrize("cfg", [False, True])
# diffusers' words for layers, and ours.
BLOCKS = pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["blocks.1"], "b1"),
        (["blocks.3"], "b3"),
        (["blocks.(0|2)"], "b0,b2"),
        (["blocks"], "all"),
    ],
)


def assert_parity(case, reference, theirs, ours, *, cfg, own=None, scale=3.0, adaptive=0.0, **more):
    """Ours on the plain pipeline equals the PAG pipeline, and PAG has an effect."""
    other = case.pipeline(cls=reference, pag_applied_layers=theirs)
    denoiser = getattr(other, case.denoiser)
    processors = dict(denoiser.attn_processors)
    try:
        expected = run_of(
            other, case, cfg=cfg, pag_scale=scale, pag_adaptive_scale=adaptive, **more
        )()
    finally:
        denoiser.set_attn_processor(processors)
    pipe = case.pipeline(**({} if own is None else {"cls": own}))
    run = run_of(pipe, case, cfg=cfg, **more)
    effect = difference(run(), expected)
    guidance = PerturbedAttentionGuidance(scale=scale, layers=ours, adaptive_scale=adaptive)
    errors = []
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay) as attachment:
            errors.append(difference(run(), expected))
        assert attachment.last_run.guided_calls
    print(f"\nerror {max(errors):.1e}, effect {effect:.1e}")
    assert effect > MARGIN * TOLERANCE, "the guidance does too little for a test"
    assert max(errors) < TOLERANCE


SD3 = functools.partial(assert_parity, tiny_sd3.CASES[0], StableDiffusion3PAGPipeline)
START = {"image": picture(), "strength": 0.5, "num_inference_steps": 4}


@CFG
@BLOCKS
def test_stable_diffusion_3(cfg, theirs, ours):
    SD3(theirs, ours, cfg=cfg)


@CFG
def test_stable_diffusion_3_adaptive_scale(cfg):
    adaptive = {"scale": 4.0, "adaptive": 0.006, "num_inference_steps": 4}
    SD3(["blocks.1"], "b1", cfg=cfg, **adaptive)


def sd3_with_shifted_latents(**settings):
    """As image-to-image expects them of the autoencoder."""
    pipe = tiny_sd3.sd3(**settings)
    pipe.vae = copy.deepcopy(vae())
    pipe.vae.register_to_config(shift_factor=0.06)
    return pipe


@CFG
@BLOCKS
def test_stable_diffusion_3_image_to_image(cfg, theirs, ours):
    case = dataclasses.replace(tiny_sd3.CASES[0], pipeline=sd3_with_shifted_latents)
    plain = StableDiffusion3Img2ImgPipeline
    reference = StableDiffusion3PAGImg2ImgPipeline
    assert_parity(case, reference, theirs, ours, cfg=cfg, own=plain, **START)


@CFG
@BLOCKS
def test_pixart_sigma(cfg, theirs, ours):
    assert_parity(tiny_pixart.CASES[0], PixArtSigmaPAGPipeline, theirs, ours, cfg=cfg)


@CFG
@BLOCKS
def test_hunyuan_dit(cfg, theirs, ours):
    # Of version 1.2, which has no image sizes.
    assert_parity(tiny_hunyuan_dit.CASES[1], HunyuanDiTPAGPipeline, theirs, ours, cfg=cfg)


@pytest.mark.parametrize("case", tiny_hunyuan_dit.CASES, ids=lambda case: case.family)
def test_hunyuan_dit_with_cfg(case):
    """Image sizes; and a result that is rescaled by the statistics of the conditional one."""
    assert_parity(case, HunyuanDiTPAGPipeline, ["blocks.1"], "b1", cfg=True)


@CFG
def test_hunyuan_dit_adaptive_scale(cfg):
    adaptive = {"scale": 4.0, "adaptive": 0.006, "num_inference_steps": 4}
    case = tiny_hunyuan_dit.CASES[1]
    assert_parity(case, HunyuanDiTPAGPipeline, ["blocks.1"], "b1", cfg=cfg, **adaptive)


@pytest.mark.skipif(
    importlib.util.find_spec("sentencepiece") is None, reason="diffusers has no Kolors without"
)
@CFG
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["mid"], "mid"),
        (["down"], "down"),
        (["up"], "up"),
        (["mid_block.*transformer_blocks.1"], "m1"),
    ],
)
def test_kolors(cfg, theirs, ours):
    assert_parity(tiny_kolors.CASES[0], KolorsPAGPipeline, theirs, ours, cfg=cfg)
