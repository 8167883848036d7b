"""Pipelines with attention guidance of their own are refused, not guided wrongly.

Such a pipeline puts its own processors into the U-Net when it is called, so each has its own.
"""

import pytest
from brute_force_guidance import Term
from diffusers import (
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPanoramaPipeline,
    StableDiffusionSAGPipeline,
)
from tiny_pipelines import (
    assert_guided_as_by_brute_force,
    cfg,
    guidance_for,
    latents_of,
    mid_grids,
    new_unet,
    prompts,
    sd,
    size,
    unet,
)

from smoothed_energy.pipelines import batch_layout
from smoothed_energy.rows import BatchLayout

TERM = Term(mid_grids())


def test_perturbed_attention_pipelines_are_refused():
    pipe = sd(StableDiffusionPAGPipeline, model=new_unet(), pag_applied_layers="mid")
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, pag_scale=3.0)
    with (
        guidance_for(TERM).attach(pipe),
        pytest.raises(RuntimeError, match=r"without PAG, or pass pag_scale=0"),
    ):
        run()


def test_perturbed_attention_pipelines_with_scale_zero_equal_brute_force():
    pipe = sd(StableDiffusionPAGPipeline, model=new_unet(), pag_applied_layers="mid")
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, pag_scale=0.0)
    assert_guided_as_by_brute_force(pipe, run, TERM, cfg(5.0))


def test_self_attention_guidance_pipelines_are_refused():
    pipe = sd(StableDiffusionSAGPipeline, model=new_unet())
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, sag_scale=0.75)
    with guidance_for(TERM).attach(pipe), pytest.raises(RuntimeError, match="without SAG"):
        run()


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (StableDiffusionPAGPipeline, {"pag_scale": 3.0}),
        (StableDiffusionSAGPipeline, {"sag_scale": 0.75}),
    ],
)
def test_a_refused_pipeline_keeps_its_attention_processors(cls, arguments):
    pipe = sd(cls, model=new_unet())
    before = pipe.unet.attn_processors
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, **arguments)
    with guidance_for(TERM).attach(pipe), pytest.raises(RuntimeError):
        run()
    assert pipe.unet.attn_processors == before


def test_classes_derived_from_a_refused_pipeline_are_refused():
    class Mine(StableDiffusionSAGPipeline):
        pass

    pipe = sd(Mine, model=new_unet())
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, sag_scale=0.75)
    with guidance_for(TERM).attach(pipe), pytest.raises(RuntimeError, match="without SAG"):
        run()


def test_classes_derived_from_instruct_pix2pix_have_its_rows():
    class Mine(StableDiffusionInstructPix2PixPipeline):
        pass

    pipe = object.__new__(Mine)
    vars(pipe).update(_guidance_scale=7.0, _image_guidance_scale=1.5)
    assert batch_layout(pipe, unet(), {}, None) == BatchLayout(3, conditional=0, unconditional=2)


def test_pipelines_with_batches_of_their_own_are_refused():
    pipe = sd(StableDiffusionPanoramaPipeline, model=new_unet())
    run = latents_of(pipe, **prompts(), **size(64, 576), guidance_scale=5.0)
    with guidance_for(TERM).attach(pipe), pytest.raises(RuntimeError, match="of its own"):
        run()
