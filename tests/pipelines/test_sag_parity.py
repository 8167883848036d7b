"""Self-attention guidance: as diffusers' own pipeline, and where that one can't go."""

import math

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionSAGPipeline,
)
from test_pipelines_unconditional import pictures_of, pixel_pipe
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    ddim,
    difference,
    latents_of,
    new_unet,
    noise,
    prompts,
    sd,
    size,
    vae,
    xl,
    xl_prompts,
)

from smoothed_energy import SelfAttentionGuidance


def sag_pipeline(scheduler):
    pipe = StableDiffusionSAGPipeline(
        vae=vae(),
        unet=new_unet(),
        scheduler=scheduler,
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_parity(cfg, kind):
    arguments = {**prompts(2), **size(160, 128), "guidance_scale": cfg, "num_inference_steps": 3}
    theirs = sag_pipeline(ddim(prediction_type=kind))
    processors = dict(theirs.unet.attn_processors)
    expected = latents_of(theirs, **arguments, sag_scale=0.75)()
    theirs.unet.set_attn_processor(processors)
    pipe = sd(StableDiffusionPipeline, model=theirs.unet, scheduler=ddim(prediction_type=kind))
    run = latents_of(pipe, **arguments)
    plain = run()
    guidance = SelfAttentionGuidance(scale=0.75)
    assert guidance.from_json(guidance.to_json()) == guidance
    with guidance.attach(pipe) as attachment:
        assert difference(run(), expected) < TOLERANCE
    assert attachment.last_run.guided_calls == 3
    assert len(attachment.last_run.layers) == 1
    assert difference(plain, expected) > MARGIN * TOLERANCE
    assert (run() == plain).all()


def guide_by_hand(pipe, scale, names, threshold):
    """Replaces the forward function: the formulas written again with explicit attention."""
    unet = pipe.unet
    forward = unet.forward
    flow = isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)

    def with_maps(*args, **kwargs):
        found = []

        def hook(attn, args, kwargs, output):
            query, key = (
                layer(args[0]).unflatten(-1, (attn.heads, -1)).transpose(1, 2).double()
                for layer in (attn.to_q, attn.to_k)
            )
            weights = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
            found.append(weights.mean(1).sum(1))

        modules = [unet.get_submodule(name) for name in names]
        hooks = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
        output = forward(*args, **kwargs)[0]
        for handle in hooks:
            handle.remove()
        return output, found

    def guided(sample, timestep, *args, **kwargs):
        kwargs["return_dict"] = False
        output, found = with_maps(sample, timestep, *args, **kwargs)
        index = int((pipe.scheduler.timesteps - timestep).abs().argmin())
        sigma = float(pipe.scheduler.sigmas[index])
        if flow:
            a, b = 1 - sigma, sigma
            clean, eps = sample - sigma * output, sample + (1 - sigma) * output
        else:
            a, b = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
            clean, eps = (sample - b * output) / a, output
        line = torch.exp(-0.5 * torch.arange(-4, 5.0) ** 2)
        kernel = torch.outer(line, line) / line.sum() ** 2
        padded = torch.nn.functional.pad(clean, (4, 4, 4, 4), mode="reflect")
        blurred = torch.nn.functional.conv2d(padded, kernel.expand(4, 1, 9, 9), groups=4)
        grid = (sample.shape[2] // 2, sample.shape[3] // 2)
        masks = [(m > threshold).float().reshape(-1, 1, *grid) for m in found]
        mask = torch.nn.functional.interpolate(sum(masks) / len(masks), sample.shape[2:])
        assert 0 < mask.mean() < 1
        degraded = a * (mask * blurred + (1 - mask) * clean) + b * eps
        again = forward(degraded, timestep, *args, **kwargs)[0]
        delta = scale * (output - again).chunk(2)[0]
        return (output + torch.cat([delta, delta]),)

    unet.forward = guided


@pytest.mark.parametrize("flow", [False, True], ids=["Euler", "flow matching"])
def test_other_schedulers_sdxl_and_sizes_that_are_not_square(flow):
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    if flow:  # The pipeline was made for other schedulers.
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.init_noise_sigma = 1.0
        scheduler.scale_model_input = lambda sample, timestep: sample
    pipe = xl(scheduler=scheduler)
    run = latents_of(
        pipe,
        **xl_prompts(),
        **size(128, 96),
        guidance_scale=5.0,
        num_inference_steps=3,
        latents=noise(1, 4, 16, 12, seed=9),
    )
    plain = run()
    names = [f"mid_block.attentions.0.transformer_blocks.{i}.attn1" for i in range(2)]
    guide_by_hand(pipe, 2.0, names, 1.02)
    try:
        expected = run()
    finally:
        del pipe.unet.forward
    with SelfAttentionGuidance(scale=2.0, layers="mid", threshold=1.02).attach(pipe):
        assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE


def test_a_bare_denoiser_must_be_told_what_it_predicts():
    unet = new_unet()
    text = torch.randn(1, 5, 32)
    sample = torch.randn(1, 4, 20, 16)
    with SelfAttentionGuidance().attach(unet) as attachment, torch.no_grad():
        for settings, message in (
            ({"prediction_type": "epsilon"}, "needs the noise level"),
            ({"sigma": 1.0}, "what the denoiser predicts"),
            ({"sigma": math.inf, "prediction_type": "epsilon"}, "only noise"),
        ):
            attachment.step(0, 5, **settings)
            with pytest.raises(ValueError, match=message):
                unet(sample, 500, encoder_hidden_states=text)
        found = []
        for kind in ("epsilon", "v_prediction", "sample", "flow"):
            attachment.step(0, 5, sigma=1.0, prediction_type=kind)
            found.append(unet(sample, 500, encoder_hidden_states=text).sample)
    assert all(not torch.equal(a, b) for a in found for b in found if a is not b)


def test_compiled_denoisers_are_refused():
    unet = new_unet()
    unet.compile(backend="eager")
    with SelfAttentionGuidance().attach(unet) as attachment, torch.no_grad():
        attachment.step(0, 5, sigma=1.0, prediction_type="epsilon")
        with pytest.raises(RuntimeError, match=r"compiled denoiser; use one that is not compiled"):
            unet(torch.randn(1, 4, 20, 16), 500, encoder_hidden_states=torch.randn(1, 5, 32))


def test_a_pipeline_without_prompts():
    pipe = pixel_pipe(DDIMPipeline, 24)
    run = pictures_of(pipe)
    plain = run()
    with SelfAttentionGuidance(scale=2.0).attach(pipe) as attachment:
        assert difference(run(), plain) > TOLERANCE
    assert attachment.last_run.guided_calls == 3
