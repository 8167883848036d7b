"""Pipelines that start from a picture: guided they equal brute force."""

import pytest
from brute_force_guidance import Branches, Term, brute_force
from diffusers import (
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from tiny_pipelines import (
    ALONE,
    TOLERANCE,
    assert_guided_as_by_brute_force,
    cfg,
    difference,
    guidance_for,
    latents_of,
    mask,
    mid_grids,
    new_unet,
    new_xl_unet,
    picture,
    prompts,
    sd,
    size,
    xl,
    xl_mid_grids,
    xl_prompts,
)


@pytest.mark.parametrize(("scale", "branches"), [(1.0, ALONE), (5.0, cfg(5.0))])
def test_stable_diffusion_img2img_equals_brute_force(scale, branches):
    pipe = sd(StableDiffusionImg2ImgPipeline)
    run = latents_of(
        pipe,
        **prompts(),
        image=picture(),
        strength=0.5,
        num_inference_steps=4,
        guidance_scale=scale,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), branches)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_stable_diffusion_xl_img2img_equals_brute_force(rescale):
    pipe = xl(StableDiffusionXLImg2ImgPipeline)
    run = latents_of(
        pipe,
        **xl_prompts(),
        image=picture(),
        strength=0.5,
        num_inference_steps=4,
        num_images_per_prompt=2,
        guidance_scale=5.0,
        guidance_rescale=rescale,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(xl_mid_grids()), cfg(5.0, rescale))


def test_depth_to_image_equals_brute_force():
    pipe = sd(StableDiffusionDepth2ImgPipeline, model=new_unet(in_channels=5), depth_estimator=None)
    run = latents_of(
        pipe,
        **prompts(),
        image=picture(),
        depth_map=picture(channels=1)[0],
        strength=1.0,
        guidance_scale=5.0,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), cfg(5.0))


def test_steps_of_an_img2img_run_are_counted_in_the_whole_schedule():
    pipe = sd(StableDiffusionImg2ImgPipeline)
    run = latents_of(
        pipe,
        **prompts(),
        image=picture(),
        strength=0.5,
        num_inference_steps=4,
        guidance_scale=5.0,
    )
    # Strength 0.5 runs the third and the fourth of four steps.
    term = Term(mid_grids(), active=lambda t: t == float(pipe.scheduler.timesteps[2]))
    guidance = guidance_for(term, steps="0.5:0.75")
    assert_guided_as_by_brute_force(pipe, run, term, cfg(5.0), guidances=[guidance])


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize(("scale", "branches"), [(1.0, ALONE), (5.0, cfg(5.0))])
def test_stable_diffusion_inpainting_equals_brute_force(channels, scale, branches):
    pipe = sd(StableDiffusionInpaintPipeline, model=new_unet(in_channels=channels))
    run = latents_of(
        pipe,
        **prompts(2),
        **size(),
        image=picture(count=2),
        mask_image=mask(),
        guidance_scale=scale,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), branches)


@pytest.mark.parametrize("channels", [4, 9])
def test_stable_diffusion_xl_inpainting_equals_brute_force(channels):
    pipe = xl(StableDiffusionXLInpaintPipeline, model=new_xl_unet(in_channels=channels))
    run = latents_of(
        pipe,
        **xl_prompts(),
        **size(),
        image=picture(),
        mask_image=mask(),
        strength=0.99,
        guidance_scale=5.0,
        guidance_rescale=0.5,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(xl_mid_grids()), cfg(5.0, 0.5))


@pytest.mark.parametrize(
    ("scale", "image_scale", "formulation"),
    [
        (5.0, 1.5, "conditional"),
        (5.0, 1.5, "unconditional"),
        (1.0, 1.5, "conditional"),
        (5.0, 0.5, "unconditional"),
    ],
)
def test_instruct_pix2pix_equals_brute_force(scale, image_scale, formulation):
    pipe = sd(
        StableDiffusionInstructPix2PixPipeline,
        model=new_unet(in_channels=8),
        image_encoder=None,
    )
    run = latents_of(
        pipe,
        **prompts(),
        image=picture(),
        guidance_scale=scale,
        image_guidance_scale=image_scale,
    )
    three = scale > 1 and image_scale >= 1
    branches = Branches("ciu", scale, image_scale) if three else ALONE
    term = Term(mid_grids(), branch=formulation[0])
    guidance = guidance_for(term, formulation=formulation)
    assert_guided_as_by_brute_force(pipe, run, term, branches, guidances=[guidance])


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_instruct_pix2pix_xl_equals_brute_force(rescale):
    pipe = xl(
        StableDiffusionXLInstructPix2PixPipeline,
        model=new_xl_unet(in_channels=8),
    )
    run = latents_of(
        pipe,
        **xl_prompts(),
        **size(),
        image=picture(),
        guidance_scale=5.0,
        image_guidance_scale=1.5,
        guidance_rescale=rescale,
    )
    branches = Branches("ciu", 5.0, 1.5, rescale)
    assert_guided_as_by_brute_force(pipe, run, Term(xl_mid_grids()), branches)


class TestBaseAndRefiner:
    """SDXL's split: the base denoises the first half, the refiner the second."""

    half = {"num_inference_steps": 4, "guidance_scale": 5.0}  # noqa: RUF012

    @pytest.fixture
    def base(self):
        return xl()

    @pytest.fixture
    def refiner(self):
        return xl(
            StableDiffusionXLImg2ImgPipeline,
            model=new_xl_unet(time_ids=5),
            requires_aesthetics_score=True,
        )

    def base_run(self, base):
        return latents_of(base, **xl_prompts(), **size(), denoising_end=0.5, **self.half)

    def refiner_run(self, refiner, image):
        return latents_of(refiner, **xl_prompts(), image=image, denoising_start=0.5, **self.half)

    def test_the_base_with_denoising_end_equals_brute_force(self, base):
        run = self.base_run(base)
        assert_guided_as_by_brute_force(base, run, Term(xl_mid_grids()), cfg(5.0))

    def test_steps_before_denoising_end_are_counted_in_the_whole_schedule(self, base):
        run = self.base_run(base)
        first = Term(xl_mid_grids(), active=lambda t: t == float(base.scheduler.timesteps[0]))
        guidance = guidance_for(first, steps="0:0.25")
        assert_guided_as_by_brute_force(base, run, first, cfg(5.0), guidances=[guidance])

    def test_the_refiner_equals_brute_force(self, base, refiner):
        # At low noise a correction moves the picture little, so the scale is large.
        run = self.refiner_run(refiner, self.base_run(base)())
        term = Term(xl_mid_grids(), scale=400.0)
        assert_guided_as_by_brute_force(refiner, run, term, cfg(5.0))

    def test_both_guided_equal_brute_force(self, base, refiner):
        term = Term(xl_mid_grids())
        guidance = guidance_for(term)
        run = self.base_run(base)
        with (
            brute_force(base.unet, term, cfg(5.0)),
            brute_force(refiner.unet, term, cfg(5.0)),
        ):
            expected = self.refiner_run(refiner, run())()
        with guidance.attach(base), guidance.attach(refiner):
            actual = self.refiner_run(refiner, run())()
        assert difference(actual, expected) < TOLERANCE
