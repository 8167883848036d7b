"""The pipeline's own CFG at some of the steps: equals brute force, and saves what it should."""

import pytest
from brute_force_guidance import Branches, Term, brute_force
from diffusers import StableDiffusionInstructPix2PixPipeline
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    cfg,
    difference,
    guidance_for,
    latents_of,
    mid_grids,
    new_unet,
    picture,
    prompts,
    sd,
    size,
    unet,
    xl,
    xl_prompts,
)

from smoothed_energy import GuidanceInterval, GuidanceWarning
from smoothed_energy.schedule.steps import schedule_position


def rows_seen(model, run):
    """How many rows every call of the U-Net had."""
    seen = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(args[0])), with_kwargs=True
    )
    try:
        run()
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_cfg_in_the_middle_third(rescale):
    pipe = xl()
    run = latents_of(
        pipe,
        **xl_prompts(2),
        **size(),
        guidance_scale=5.0,
        guidance_rescale=rescale,
        num_inference_steps=6,
    )
    plain = run()
    with brute_force(
        pipe.unet, [], lambda call: cfg(5.0, rescale) if call in (2, 3) else cfg(1.0, 0.0)
    ):
        expected = run()
    with GuidanceInterval("mid").attach(pipe) as attachment:
        assert difference(run(), expected) < TOLERANCE
        assert (attachment.last_run.calls, attachment.last_run.guided_calls) == (6, 2)
    assert difference(plain, expected) > MARGIN * TOLERANCE


def test_noise_levels():
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, num_inference_steps=5)
    pipe.scheduler.set_timesteps(5)
    levels = [schedule_position(pipe.scheduler, t).sigma for t in pipe.scheduler.timesteps]
    low, high = (levels[3] + levels[2]) / 2, (levels[1] + levels[0]) / 2
    with brute_force(pipe.unet, [], lambda call: cfg(5.0) if call in (1, 2) else cfg(1.0)):
        expected = run()
    interval = GuidanceInterval(f"sigma:{low}:{high}")
    assert interval.from_json(interval.to_json()) == interval
    with interval.attach(pipe):
        assert difference(run(), expected) < TOLERANCE
        # Hooks see the calls of the pipeline, which stay whole; the denoiser's modules do half.
        assert rows_seen(pipe.unet.conv_in, run) == [1, 2, 2, 1, 1]


def test_it_stacks_with_a_correction():
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, num_inference_steps=4)
    with brute_force(
        pipe.unet, Term(mid_grids()), lambda call: cfg(5.0) if call in (0, 1) else cfg(1.0)
    ):
        expected = run()
    guidance = guidance_for(Term(mid_grids()))
    with GuidanceInterval("0:0.5").attach(pipe), guidance.attach(pipe) as attachment:
        assert difference(run(), expected) < TOLERANCE
        assert attachment.last_run.guided_calls == 4


def test_instruct_pix2pix():
    pipe = sd(
        StableDiffusionInstructPix2PixPipeline, model=new_unet(in_channels=8), image_encoder=None
    )
    run = latents_of(
        pipe, **prompts(), image=picture(), guidance_scale=5.0, image_guidance_scale=1.5
    )
    both = Branches("ciu", guidance_scale=5.0, image_guidance_scale=1.5)
    none = Branches("ciu", guidance_scale=1.0, image_guidance_scale=1.0)
    with brute_force(pipe.unet, [], lambda call: none if call == 0 else both):
        expected = run()
    with GuidanceInterval("0.5:1").attach(pipe):
        assert difference(run(), expected) < TOLERANCE


def test_without_cfg_and_at_all_steps_nothing_changes():
    pipe = sd()
    for interval, scale in (("begin", 1.0), ("all", 5.0)):
        run = latents_of(pipe, **prompts(), **size(), guidance_scale=scale)
        plain = run()
        with GuidanceInterval(interval).attach(pipe):
            assert difference(run(), plain) < 1e-6


def test_nothing_is_left_behind():
    pipe = sd(model=unet())
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
    plain = run()
    with GuidanceInterval("end").attach(pipe):  # Of two steps, none is in the last third.
        assert difference(run(), plain) > MARGIN * TOLERANCE
    assert (run() == plain).all()


def test_what_depends_on_a_perturbed_prediction_is_refused():
    with pytest.raises(ValueError, match=r"adaptive:0.9.*makes none"):
        GuidanceInterval("begin+adaptive:0.9")


def test_without_cfg_there_is_nothing_to_limit_and_it_says_so():
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=1.0, num_inference_steps=4)
    with (
        GuidanceInterval("0:0.5").attach(pipe) as attachment,
        pytest.warns(GuidanceWarning, match="no classifier-free guidance for GuidanceInterval"),
    ):
        run()
    assert attachment.last_run.calls_without_cfg == 0


@pytest.mark.parametrize("formulation", ["conditional", "unconditional"])
def test_a_difference_kept_under_cfg_is_not_used_without_it(formulation):
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0, num_inference_steps=4)
    guidance = guidance_for(Term(mid_grids()), every=4, formulation=formulation)
    with GuidanceInterval("0:0.5").attach(pipe) as interval, guidance.attach(pipe) as attachment:
        run()
    assert interval.last_run.calls_without_cfg == 2
    # Without CFG all rows are conditional: the difference of the other prediction is not theirs.
    expected = {"conditional": (1, 3), "unconditional": (2, 2)}[formulation]
    done = attachment.last_run
    assert (done.guided_calls, done.reused_calls) == expected
