"""The guider in modular pipelines, compared with brute force and with attached guidance."""

import math
import warnings

import pytest
import torch
from brute_force_attention import brute_force as brute_force_of_transformer
from brute_force_guidance import Term, brute_force
from comparison import run_of
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler
from diffusers.guiders import ClassifierFreeGuidance
from modular_pipelines import modular_sd3, modular_xl, run_sd3, run_xl, xl_arguments
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    cfg,
    difference,
    latents_of,
    noise,
    size,
    xl,
    xl_mid_grids,
    xl_prompts,
)
from tiny_sd3 import CASES, sd3

from smoothed_energy import (
    GuidanceInterval,
    NormalizedAttentionGuidance,
    guidance_from_text,
)
from smoothed_energy.engine.summary import GuidanceWarning
from smoothed_energy.modular import SmoothedEnergyGuider

SCALE = 5.0
SD3 = CASES[0]
SD3_LAYERS = ",".join(
    layer.replace("transformer_blocks.", "b").split(".")[0] for layer in SD3.images
)


def attached(texts, *, steps=2, count=1, scheduler=None, **arguments):
    """What the ordinary SDXL pipeline gives with guidance attached."""
    pipe = xl(scheduler=scheduler)
    arguments = {"guidance_scale": SCALE, "num_inference_steps": steps, **arguments}
    generate = latents_of(pipe, **xl_prompts(count), **size(), **arguments)
    attachments = [guidance_from_text(text).attach(pipe) for text in texts]
    try:
        return generate()
    finally:
        for attachment in attachments:
            attachment.detach()


def assert_same(found, expected, plain):
    changed, error = difference(plain, expected), difference(found, expected)
    print(f"\nerror {error:.1e}, effect {changed:.1e}")
    assert changed > MARGIN * TOLERANCE, "the guidance does too little for a test"
    assert error < TOLERANCE


@pytest.mark.parametrize("sigma", [1.0, math.inf])
@pytest.mark.parametrize("formulation", ["conditional", "unconditional"])
def test_sdxl_equals_brute_force(sigma, formulation):
    pipe = xl()
    generate = latents_of(pipe, **xl_prompts(2), **size(), guidance_scale=SCALE)
    term = Term(xl_mid_grids(), sigma=sigma, branch=formulation[0])
    plain = generate()
    with brute_force(pipe.unet, term, cfg(SCALE)):
        expected = generate()
    text = f"seg; blur=gaussian:{sigma}; scale=3; layers=mid; formulation={formulation}"
    guider = SmoothedEnergyGuider(text, guidance_scale=SCALE)
    assert_same(run_xl(modular_xl(guider), prompts=xl_arguments(2)), expected, plain)


@pytest.mark.parametrize("guidance_scale", [1.0, SCALE])
@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_stable_diffusion_3_equals_brute_force(sigma, guidance_scale):
    pipe = sd3()
    with_cfg = guidance_scale > 1
    generate = run_of(pipe, SD3, cfg=with_cfg)
    plain = generate()
    with brute_force_of_transformer(pipe, SD3, cfg=with_cfg, sigma=sigma):
        expected = generate()
    text = f"seg; blur=gaussian:{sigma}; scale=3; layers={SD3_LAYERS}"
    guider = SmoothedEnergyGuider(text, guidance_scale=guidance_scale)
    assert_same(run_sd3(modular_sd3(guider)), expected, plain)


@pytest.mark.parametrize(
    "texts",
    [
        ["seg; blur=gaussian:1; layers=mid; on=key"],
        ["pag; layers=mid"],
        ["erg; layers=mid; scale=6"],
        ["slg; layers=m0"],
        ["tpg; layers=mid"],
        ["sag"],
        ["swg"],
        ["seg; layers=mid; scale=linear:3:1"],
        ["seg; layers=mid; every=2"],
        ["seg; layers=mid; steps=begin"],
        ["seg; layers=mid; steps=every:2"],
        ["seg; layers=mid; steps=adaptive:0.5"],
        ["seg; layers=mid; combine=rescale:0.7"],
        ["seg; layers=mid; combine=project+fuse"],
        ["pag; layers=mid; adaptive_scale=0.005"],
        ["seg; layers=mid; scale=2", "pag; layers=u0; steps=begin; formulation=unconditional"],
        ["seg; layers=mid; steps=sigma:1:20"],
    ],
)
def test_every_setting_does_what_it_does_attached(texts):
    guider = SmoothedEnergyGuider(texts, guidance_scale=SCALE)
    pipe = modular_xl(guider)
    if any(name in texts[0] for name in ("sag", "sigma")):
        guider.scheduler = pipe.scheduler
    plain, expected = attached([], steps=4), attached(texts, steps=4)
    assert_same(run_xl(pipe, steps=4), expected, plain)


def test_a_whole_run_can_be_repeated():
    guider = SmoothedEnergyGuider("seg; layers=mid; every=2; steps=begin", stop=0.5)
    pipe = modular_xl(guider)
    assert torch.equal(run_xl(pipe, steps=4), run_xl(pipe, steps=4))


def test_rescaling_takes_the_whole_result():
    text = "seg; blur=gaussian:1; layers=mid"
    expected = attached([text], guidance_rescale=0.7)
    plain = attached([], guidance_rescale=0.7)
    guider = SmoothedEnergyGuider(text, guidance_scale=SCALE, guidance_rescale=0.7)
    assert_same(run_xl(modular_xl(guider)), expected, plain)


@pytest.mark.parametrize("combine", ["", "fuse"])
def test_the_original_formulation_counts_from_the_conditional_prediction(combine):
    text = "seg; blur=gaussian:1; layers=mid" + (f"; combine={combine}" if combine else "")
    guider = SmoothedEnergyGuider(text, guidance_scale=SCALE - 1, use_original_formulation=True)
    assert_same(run_xl(modular_xl(guider)), attached([text]), attached([]))
    without = guider.new(guidance_scale=0.0)
    expected = attached([text], guidance_scale=1.0)
    assert_same(run_xl(modular_xl(without)), expected, attached([], guidance_scale=1.0))


def test_start_and_stop_are_those_of_cfg_alone():
    text = "seg; blur=gaussian:1; layers=mid"
    guider = SmoothedEnergyGuider(text, guidance_scale=SCALE, start=0.25, stop=0.75)
    interval = "interval; steps=0.25:0.75"
    expected, plain = attached([text, interval], steps=4), attached([interval], steps=4)
    assert_same(run_xl(modular_xl(guider), steps=4), expected, plain)
    same = SmoothedEnergyGuider([text, GuidanceInterval("0.25:0.75")], guidance_scale=SCALE)
    assert_same(run_xl(modular_xl(same), steps=4), expected, plain)


@pytest.mark.parametrize("settings", [{"enabled": False}, {"guidance": "seg; scale=0"}])
def test_what_is_off_does_nothing(settings):
    guider = SmoothedEnergyGuider(**{"guidance": "seg; layers=mid", **settings}, guidance_scale=4)
    assert guider.num_conditions == (1 if settings.get("enabled") is False else 2)
    plain = ClassifierFreeGuidance(guidance_scale=4, enabled=settings.get("enabled", True))
    # SDXL's loop enables every guider, so SD3's it is.
    assert torch.equal(run_sd3(modular_sd3(guider)), run_sd3(modular_sd3(plain)))


def test_schedulers_with_more_timesteps_than_steps_need_to_be_known():
    heun = HeunDiscreteScheduler.from_config(xl().scheduler.config)
    text = "seg; blur=gaussian:1; layers=mid; steps=begin+mid"
    guider = SmoothedEnergyGuider(text, guidance_scale=SCALE)
    pipe = modular_xl(guider, scheduler=heun)
    with pytest.raises(ValueError, match=r"guider\.scheduler = pipe\.scheduler"):
        run_xl(pipe, steps=3)
    guider.scheduler = heun
    expected = attached([text], steps=3, scheduler=heun)
    assert_same(run_xl(pipe, steps=3), expected, attached([], steps=3, scheduler=heun))


@pytest.mark.parametrize("text", ["cfgpp; scale=0.6", "sag; layers=mid; scale=0.7"])
def test_a_scheduler_that_is_replaced_later_is_the_one_that_counts(text):
    other = EulerDiscreteScheduler.from_config(
        xl().scheduler.config, timestep_spacing="trailing", use_karras_sigmas=True
    )
    found = []
    for first in (False, True):
        guider = SmoothedEnergyGuider(text, guidance_scale=SCALE)
        pipe = modular_xl(ClassifierFreeGuidance(guidance_scale=SCALE))
        if first:
            guider.put_into(pipe)
        pipe.update_components(scheduler=other)
        if not first:
            guider.put_into(pipe)
        assert guider.scheduler is other
        found.append(run_xl(pipe, steps=3))
    assert torch.equal(*found)


def test_a_negative_prompt_that_nobody_encodes_is_refused():
    with pytest.raises(RuntimeError, match=r"blocks encode no other prompt.*negative_embeds="):
        SmoothedEnergyGuider("nag; negative_prompt=blurry")


def test_a_negative_text_by_its_embeddings():
    prompts = xl_prompts(1)
    text = noise(*prompts["prompt_embeds"].shape, seed=9)
    nag = NormalizedAttentionGuidance(negative_embeds={"encoder_hidden_states": text})
    pipe = xl()
    generate = latents_of(pipe, **prompts, **size(), guidance_scale=SCALE, num_inference_steps=2)
    plain = generate()
    with nag.attach(pipe):
        expected = generate()
    assert_same(
        run_xl(modular_xl(SmoothedEnergyGuider(nag, guidance_scale=SCALE))), expected, plain
    )


def test_cfg_lasts_to_the_end_of_a_second_order_schedule():
    heun = HeunDiscreteScheduler.from_config(xl().scheduler.config)
    text = "seg; blur=gaussian:1; layers=mid"
    pipe = modular_xl(SmoothedEnergyGuider(text, guidance_scale=SCALE), scheduler=heun)
    expected = attached([text], steps=3, scheduler=heun)
    assert_same(run_xl(pipe, steps=3), expected, attached([], steps=3, scheduler=heun))


@pytest.mark.parametrize(
    ("text", "scale", "message"),
    [
        ("seg; layers=mid; steps=0.2:0.3", SCALE, "steps='0.2:0.3', so the result"),
        ("seg; layers=mid; scale=table:0:0", SCALE, "with a scale other than 0"),
        ("interval; steps=0:0.5", 1.0, "no classifier-free guidance"),
        ("interval; steps=0:0.5", SCALE, None),
        ("interval; steps=0:0.9", SCALE, None),
        ("seg; layers=mid", SCALE, None),
    ],
)
def test_a_run_without_a_guided_step_warns(text, scale, message):
    pipe = modular_xl(SmoothedEnergyGuider(text, guidance_scale=scale))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_xl(pipe)
    found = [str(item.message) for item in caught if issubclass(item.category, GuidanceWarning)]
    assert len(found) == bool(message)
    assert not found or message in found[0]


def test_a_guidance_that_changes_nothing_warns():
    with pytest.warns(GuidanceWarning, match="changes nothing"):
        SmoothedEnergyGuider("seg; blur=gaussian:0.15")


def test_the_stem_is_replayed():
    pipe = modular_xl(SmoothedEnergyGuider("seg; layers=mid", guidance_scale=1.0))
    first, calls = pipe.unet.conv_in, []
    forward = first.forward

    def counted(sample):
        calls.append(len(sample))
        return forward(sample)

    first.forward = counted
    try:
        run_xl(pipe)
    finally:
        del first.forward
    assert calls == [1, 1]


def test_what_a_block_makes_of_predictions_it_makes_of_the_perturbed_one_too():
    """Blocks of other pipelines cut predictions or change their sign before they are combined."""
    pipe, guider = modular_xl(), SmoothedEnergyGuider("seg; layers=mid", guidance_scale=SCALE)
    unet, latents, time = pipe.unet, noise(1, 4, 12, 8, seed=7), torch.tensor(500.0)
    prompts = xl_prompts()
    data = {
        "text": (prompts["prompt_embeds"], prompts["negative_prompt_embeds"]),
        "pooled": (prompts["pooled_prompt_embeds"], prompts["negative_pooled_prompt_embeds"]),
    }

    def predicted(change):
        guider.set_state(step=0, num_inference_steps=2, timestep=time)
        batches = guider.prepare_inputs(data)
        for batch in batches:
            guider.prepare_models(unet)
            conditions = {"text_embeds": batch.pooled, "time_ids": noise(1, 6, seed=6)}
            with torch.no_grad():
                output = unet(
                    latents,
                    time,
                    encoder_hidden_states=batch.text,
                    added_cond_kwargs=conditions,
                    return_dict=False,
                )
            batch.noise_pred = change(output[0])
            guider.cleanup_models(unet)
        return guider(batches).pred

    expected = -predicted(lambda output: output)[:, :, :5]
    assert difference(predicted(lambda output: -output[:, :, :5]), expected) < TOLERANCE


@pytest.mark.parametrize("change", ["steps=end; scale=3000", "every=3", "steps=adaptive:0.5"])
def test_a_second_order_schedule_is_one_run(change):
    heun = HeunDiscreteScheduler.from_config(xl().scheduler.config)
    text = f"seg; blur=gaussian:1; layers=mid; {change}"
    guider = SmoothedEnergyGuider(text, guidance_scale=SCALE)
    pipe = modular_xl(guider, scheduler=heun)
    guider.scheduler = heun
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceWarning)
        found = run_xl(pipe, steps=5)
    expected = attached([text], steps=5, scheduler=heun)
    assert_same(found, expected, attached([], steps=5, scheduler=heun))
