"""Pipelines with attention guidance of their own are refused, not guided wrongly.

Such a pipeline puts its own processors into the U-Net when it is called, so each has its own.
"""

import pytest
import tiny_sd3
from brute_force_guidance import Term
from comparison import run_of
from diffusers import (
    StableDiffusionGLIGENPipeline,
    StableDiffusionGLIGENTextImagePipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPanoramaPipeline,
    StableDiffusionParadigmsPipeline,
    StableDiffusionSAGPipeline,
    TextToVideoZeroPipeline,
    TextToVideoZeroSDXLPipeline,
)
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    assert_guided_as_by_brute_force,
    cfg,
    difference,
    guidance_for,
    latents_of,
    mid_grids,
    new_unet,
    prompts,
    sd,
    size,
    unet,
)

from smoothed_energy import PerturbedAttentionGuidance, SkipLayerGuidance
from smoothed_energy.denoisers.cfg_batch import BatchLayout
from smoothed_energy.integrations.pipeline_facts import batch_layout, refuse_own_guidance

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


@pytest.mark.parametrize(
    "cls",
    [
        StableDiffusionGLIGENTextImagePipeline,
        StableDiffusionParadigmsPipeline,
        TextToVideoZeroPipeline,
        TextToVideoZeroSDXLPipeline,
    ],
)
def test_pipelines_whose_rows_belong_together_in_other_ways_are_refused(cls):
    with pytest.raises(RuntimeError, match=f"{cls.__name__} arranges its batches in a way of its"):
        refuse_own_guidance(object.__new__(cls), {})


def test_pipelines_of_similar_names_are_not_refused():
    refuse_own_guidance(object.__new__(StableDiffusionGLIGENPipeline), {})


SD3 = tiny_sd3.CASES[0]
SKIPPING = {
    "num_inference_steps": 1,
    "skip_guidance_layers": [1, 2],
    "skip_layer_guidance_start": -1,
    "skip_layer_guidance_stop": 1.0,
}


def test_skip_layer_guidance_of_stable_diffusion_3_itself_is_refused():
    pipe = SD3.pipeline()
    run = run_of(pipe, SD3, cfg=True, **SKIPPING)
    with (
        PerturbedAttentionGuidance(layers="b1").attach(pipe),
        pytest.raises(RuntimeError, match=r"runs skip-layer.*SkipLayerGuidance\(layers='b1.\*,b2"),
    ):
        run()


def test_the_guidance_that_is_advised_in_its_place_does_the_same():
    pipe = SD3.pipeline()
    expected = run_of(pipe, SD3, cfg=True, **SKIPPING)()
    run = run_of(pipe, SD3, cfg=True, num_inference_steps=1)
    plain = run()
    with SkipLayerGuidance(layers="b1.*,b2.*", scale=2.8).attach(pipe):
        assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE
