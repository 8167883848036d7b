"""Perturbed-attention guidance gives what diffusers' own PAG pipelines give."""

import pytest
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPAGInpaintPipeline,
    StableDiffusionControlNetPAGPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPAGImg2ImgPipeline,
    StableDiffusionPAGInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPAGImg2ImgPipeline,
    StableDiffusionXLControlNetPAGPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPAGImg2ImgPipeline,
    StableDiffusionXLPAGInpaintPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
)
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    difference,
    latents_of,
    mask,
    new_controlnet,
    picture,
    prompts,
    sd,
    size,
    unet,
    xl,
    xl_prompts,
    xl_unet,
)

from smoothed_energy.methods import PerturbedAttentionGuidance

CFG = pytest.mark.parametrize("cfg", [1.0, 5.0])
# diffusers' words for layers, and ours.
LAYERS = pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["mid"], "mid"),
        (["down"], "down"),
        (["up_blocks.1.attentions.1"], "u1"),
        (["mid", "up_blocks.1.attentions.0"], "mid,u0"),
    ],
)


def assert_parity(builder, theirs, ours, arguments, *, layers=("mid",), own="mid", **components):
    """Ours on the plain pipeline equals the PAG pipeline, and PAG has an effect."""
    scale, adaptive = arguments.pop("pag_scale", 3.0), arguments.pop("pag_adaptive_scale", 0.0)
    reference = builder(theirs, pag_applied_layers=list(layers), **components)
    processors = dict(reference.unet.attn_processors)
    expected = latents_of(reference, **arguments, pag_scale=scale, pag_adaptive_scale=adaptive)()
    reference.unet.set_attn_processor(processors)
    pipe = builder(ours, **components)
    run = latents_of(pipe, **arguments)
    effect = difference(run(), expected)
    guidance = PerturbedAttentionGuidance(scale=scale, layers=own, adaptive_scale=adaptive)
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay) as attachment:
            error = difference(run(), expected)
        assert attachment.last_run.guided_calls
        assert error < TOLERANCE
    assert effect > MARGIN * TOLERANCE


@CFG
@LAYERS
def test_stable_diffusion(cfg, theirs, ours):
    arguments = {**prompts(), **size(), "guidance_scale": cfg}
    assert_parity(
        sd, StableDiffusionPAGPipeline, StableDiffusionPipeline, arguments, layers=theirs, own=ours
    )


@CFG
def test_adaptive_scale(cfg):
    arguments = {**prompts(2), **size(), "guidance_scale": cfg, "num_inference_steps": 4}
    arguments |= {"pag_scale": 4.0, "pag_adaptive_scale": 0.006}
    assert_parity(sd, StableDiffusionPAGPipeline, StableDiffusionPipeline, arguments)


@CFG
@pytest.mark.parametrize(("theirs", "ours"), [(["mid"], "mid"), (["down"], "down")])
def test_stable_diffusion_xl(cfg, theirs, ours):
    arguments = {**xl_prompts(), **size(), "guidance_scale": cfg, "guidance_rescale": 0.0}
    assert_parity(
        xl,
        StableDiffusionXLPAGPipeline,
        StableDiffusionXLPipeline,
        arguments,
        layers=theirs,
        own=ours,
    )


@CFG
def test_image_to_image(cfg):
    start = {"image": picture(), "strength": 0.5, "num_inference_steps": 4, "guidance_scale": cfg}
    assert_parity(
        sd,
        StableDiffusionPAGImg2ImgPipeline,
        StableDiffusionImg2ImgPipeline,
        {**prompts(), **start},
    )
    assert_parity(
        xl,
        StableDiffusionXLPAGImg2ImgPipeline,
        StableDiffusionXLImg2ImgPipeline,
        {**xl_prompts(), **start},
    )


@CFG
def test_inpainting(cfg):
    start = {"image": picture(), "mask_image": mask(), "strength": 1.0, "guidance_scale": cfg}
    assert_parity(
        sd,
        StableDiffusionPAGInpaintPipeline,
        StableDiffusionInpaintPipeline,
        {**prompts(), **size(), **start},
    )
    assert_parity(
        xl,
        StableDiffusionXLPAGInpaintPipeline,
        StableDiffusionXLInpaintPipeline,
        {**xl_prompts(), **size(), **start},
    )


@CFG
def test_controlnet(cfg):
    controlnet: ControlNetModel = new_controlnet(unet(), 3)
    arguments = {**prompts(), **size(), "image": picture(seed=3), "guidance_scale": cfg}
    assert_parity(
        sd,
        StableDiffusionControlNetPAGPipeline,
        StableDiffusionControlNetPipeline,
        dict(arguments),
        controlnet=controlnet,
    )
    inpaint = {
        **arguments,
        "image": picture(),
        "mask_image": mask(),
        "control_image": picture(seed=3),
        "strength": 1.0,
    }
    assert_parity(
        sd,
        StableDiffusionControlNetPAGInpaintPipeline,
        StableDiffusionControlNetInpaintPipeline,
        inpaint,
        controlnet=controlnet,
    )


@CFG
def test_controlnet_xl(cfg):
    controlnet = new_controlnet(xl_unet(), 3)
    arguments = {**xl_prompts(), **size(), "image": picture(seed=3), "guidance_scale": cfg}
    assert_parity(
        xl,
        StableDiffusionXLControlNetPAGPipeline,
        StableDiffusionXLControlNetPipeline,
        dict(arguments),
        controlnet=controlnet,
    )
    start = {
        **arguments,
        "image": picture(),
        "control_image": picture(seed=3),
        "strength": 0.5,
        "num_inference_steps": 4,
    }
    assert_parity(
        xl,
        StableDiffusionXLControlNetPAGImg2ImgPipeline,
        StableDiffusionXLControlNetImg2ImgPipeline,
        start,
        controlnet=controlnet,
    )
