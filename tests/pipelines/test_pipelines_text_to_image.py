"""Text to image: guided pipelines equal brute force."""

import math

import pytest
import torch
from brute_force_guidance import Branches, Term, brute_force
from diffusers import LatentConsistencyModelPipeline, LCMScheduler
from tiny_pipelines import (
    ALONE,
    MID,
    UP,
    XL_MID,
    assert_guided_as_by_brute_force,
    cfg,
    ddim,
    difference,
    guidance_for,
    latents_of,
    mid_grids,
    new_unet,
    prompts,
    sd,
    size,
    xl,
    xl_mid_grids,
    xl_prompts,
)

CFG_CASES = pytest.mark.parametrize(
    ("scale", "rescale", "branches"),
    [(1.0, 0.0, ALONE), (5.0, 0.0, cfg(5.0)), (5.0, 0.7, cfg(5.0, 0.7))],
    ids=["without-cfg", "cfg", "cfg-rescaled"],
)
BOTH = (True, False)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@CFG_CASES
def test_stable_diffusion_equals_brute_force(prediction, scale, rescale, branches):
    pipe = sd(scheduler=ddim(prediction_type=prediction))
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=scale, guidance_rescale=rescale)
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), branches, replay=BOTH)


@CFG_CASES
def test_stable_diffusion_xl_equals_brute_force(scale, rescale, branches):
    pipe = xl()
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=scale, guidance_rescale=rescale)
    assert_guided_as_by_brute_force(pipe, run, Term(xl_mid_grids()), branches, replay=BOTH)


@pytest.mark.parametrize(
    ("pixels", "grid", "sigma"),
    [
        ((40, 72), (3, 5), 0.5),
        ((72, 40), (5, 3), 2.0),
        ((72, 40), (5, 3), math.inf),
        ((64, 128), (4, 8), 10.0),
    ],
)
def test_pictures_of_any_shape_equal_brute_force(pixels, grid, sigma):
    pipe = xl()
    run = latents_of(pipe, **xl_prompts(), **size(*pixels), guidance_scale=5.0)
    term = Term(xl_mid_grids(grid), sigma=sigma)
    assert_guided_as_by_brute_force(pipe, run, term, cfg(5.0))


def test_zero_terminal_snr_with_rescaling_equals_brute_force():
    scheduler = ddim(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=0,
    )
    pipe = sd(scheduler=scheduler)
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, guidance_rescale=0.7)
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), cfg(5.0, 0.7))


def test_decoded_pictures_equal_brute_force():
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, output_type="pt")
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids(), scale=10.0), cfg(5.0))


@CFG_CASES
def test_batches_of_prompts_equal_brute_force(scale, rescale, branches):
    pipe = sd()
    run = latents_of(pipe, **prompts(3), **size(), guidance_scale=scale, guidance_rescale=rescale)
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), branches)


@CFG_CASES
def test_several_images_a_prompt_equal_brute_force(scale, rescale, branches):
    pipe = xl()
    run = latents_of(
        pipe,
        **xl_prompts(2),
        **size(),
        num_images_per_prompt=2,
        guidance_scale=scale,
        guidance_rescale=rescale,
    )
    assert_guided_as_by_brute_force(pipe, run, Term(xl_mid_grids()), branches)


@CFG_CASES
def test_the_unconditional_formulation_equals_brute_force(scale, rescale, branches):
    pipe = sd()
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=scale, guidance_rescale=rescale)
    term = Term(mid_grids(), branch="u")
    guidance = guidance_for(term, formulation="unconditional")
    assert_guided_as_by_brute_force(pipe, run, term, branches, guidances=[guidance], replay=BOTH)


@pytest.mark.parametrize(
    "term", [Term({UP[1]: (12, 8)}), Term({MID: (6, 4), UP[0]: (12, 8)}, sigma=math.inf)]
)
def test_any_choice_of_layers_equals_brute_force(term):
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
    assert_guided_as_by_brute_force(pipe, run, term, cfg(5.0), replay=BOTH)


def test_one_layer_of_a_deep_block_equals_brute_force():
    pipe = xl()
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=5.0)
    term = Term({XL_MID[1]: (6, 4)}, scale=10.0)
    assert_guided_as_by_brute_force(pipe, run, term, cfg(5.0), replay=BOTH)


@pytest.mark.parametrize("cls", ["StableDiffusionPipeline", "LatentConsistencyModelPipeline"])
def test_a_unet_that_takes_the_guidance_scale_equals_brute_force(cls):
    model = new_unet(time_cond_proj_dim=16)
    scheduler = LCMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    if cls == "StableDiffusionPipeline":
        pipe = sd(model=model, scheduler=scheduler)
        texts = prompts(2)
    else:
        pipe = sd(LatentConsistencyModelPipeline, model=model, scheduler=scheduler)
        texts = {"prompt_embeds": prompts(2)["prompt_embeds"]}
    run = latents_of(pipe, **texts, **size(), guidance_scale=8.5)
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), ALONE, replay=BOTH)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_a_callback_that_changes_the_guidance_scale_equals_brute_force(rescale):
    pipe = sd()
    scales = [5.0, 2.0, 8.0]

    def change(pipe, index, timestep, values):
        pipe._guidance_scale = [*scales, 5.0][index + 1]
        return values

    run = latents_of(
        pipe,
        **prompts(),
        **size(),
        guidance_scale=5.0,
        guidance_rescale=rescale,
        num_inference_steps=3,
        callback_on_step_end=change,
    )
    assert_guided_as_by_brute_force(
        pipe, run, Term(mid_grids()), lambda call: cfg(scales[call], rescale)
    )


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_a_callback_that_turns_cfg_off_equals_brute_force(rescale):
    pipe = sd()

    def turn_off(pipe, index, timestep, values):
        if index == 1:
            pipe._guidance_scale = 0.0
            values["prompt_embeds"] = values["prompt_embeds"].chunk(2)[-1]
        return values

    run = latents_of(
        pipe,
        **prompts(2),
        **size(),
        guidance_scale=5.0,
        guidance_rescale=rescale,
        num_inference_steps=3,
        callback_on_step_end=turn_off,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    assert_guided_as_by_brute_force(
        pipe, run, Term(mid_grids()), lambda call: cfg(5.0, rescale) if call < 2 else ALONE
    )


def test_a_callback_that_turns_cfg_off_in_sdxl_equals_brute_force():
    pipe = xl()
    names = ["prompt_embeds", "add_text_embeds", "add_time_ids"]

    def turn_off(pipe, index, timestep, values):
        if index == 0:
            pipe._guidance_scale = 0.0
            values |= {name: values[name].chunk(2)[-1] for name in names}
        return values

    run = latents_of(
        pipe,
        **xl_prompts(),
        **size(),
        guidance_scale=5.0,
        callback_on_step_end=turn_off,
        callback_on_step_end_tensor_inputs=names,
    )
    assert_guided_as_by_brute_force(
        pipe, run, Term(xl_mid_grids()), lambda call: cfg(5.0) if call < 1 else ALONE
    )


def test_the_brute_force_itself_leaves_nothing_behind():
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
    before = run()
    assert_guided_as_by_brute_force(pipe, run, Term(mid_grids()), cfg(5.0))
    assert torch.equal(run(), before)


def test_brute_force_without_a_correction_is_the_pipelines_own_guidance():
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, guidance_rescale=0.7)
    plain = run()
    with brute_force(pipe.unet, [], Branches("uc", guidance_scale=5.0, rescale=0.7)):
        assert difference(run(), plain) < 1e-5
