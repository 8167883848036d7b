"""Self-attention guidance: as diffusers' own pipeline, and where that one can't go."""

import math

import pytest
import torch
from diffusers import (
    CosineDPMSolverMultistepScheduler,
    DDIMPipeline,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    MarigoldDepthPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionPipeline,
    StableDiffusionSAGPipeline,
    TCDScheduler,
)
from test_pipelines_unconditional import pictures_of, pixel_pipe
from tiny_pipelines import (
    MARGIN,
    MID,
    TOLERANCE,
    XL_MID,
    ddim,
    difference,
    latents_of,
    mask,
    new_unet,
    noise,
    picture,
    prompts,
    sd,
    size,
    vae,
    xl,
    xl_prompts,
)

from smoothed_energy import SelfAttentionGuidance
from smoothed_energy.integrations.pipeline_facts import prediction_type


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


def taken_apart(scheduler, sample, output, timestep):
    """What a denoiser's input is made of: the clean image, and a function that noises another one.

    Of schedulers that precondition, the image is their own.
    """
    index = int((scheduler.timesteps - timestep).abs().argmin())
    if not hasattr(scheduler, "sigmas"):
        a = float(scheduler.alphas_cumprod[int(timestep)]) ** 0.5
        b = math.sqrt(1 - a * a)
        return (sample - b * output) / a, lambda image: a * image + b * output
    sigma = float(scheduler.sigmas[index])
    if hasattr(scheduler, "precondition_outputs"):
        x = sample / scheduler.precondition_inputs(torch.ones(()), sigma)
        clean = scheduler.precondition_outputs(x, output, sigma)
        return clean, lambda image: scheduler.precondition_inputs(image + x - clean, sigma)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        eps = sample + (1 - sigma) * output
        return sample - sigma * output, lambda image: (1 - sigma) * image + sigma * eps
    a, b = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
    return (sample - b * output) / a, lambda image: a * image + b * output


def guide_by_hand(pipe, scale, names, threshold, group=0, groups=2):
    """Replaces the forward function: the formulas written again with explicit attention.

    The rows of one of the groups are perturbed.
    """
    unet = pipe.unet
    forward = unet.forward

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
        clean, noised = taken_apart(pipe.scheduler, sample[:, :4], output, timestep)
        line = torch.exp(-0.5 * torch.arange(-4, 5.0) ** 2)
        kernel = torch.outer(line, line) / line.sum() ** 2
        padded = torch.nn.functional.pad(clean, (4, 4, 4, 4), mode="reflect")
        blurred = torch.nn.functional.conv2d(padded, kernel.expand(4, 1, 9, 9), groups=4)
        grid = (sample.shape[2] // 2, sample.shape[3] // 2)
        masks = [(m > threshold).float().reshape(-1, 1, *grid) for m in found]
        mask = torch.nn.functional.interpolate(sum(masks) / len(masks), sample.shape[2:])
        assert 0 < mask.mean() < 1
        degraded = noised(mask * blurred + (1 - mask) * clean)
        degraded = torch.cat([degraded, sample[:, 4:]], dim=1)
        again = forward(degraded, timestep, *args, **kwargs)[0]
        delta = scale * (output - again).chunk(groups)[group]
        return (output + torch.cat([delta] * groups),)

    unet.forward = guided


def assert_as_by_hand(pipe, run, *, names=XL_MID, layers="mid", **groups):
    plain = run()
    guide_by_hand(pipe, 2.0, names, 1.02, **groups)
    try:
        expected = run()
    finally:
        del pipe.unet.forward
    with SelfAttentionGuidance(scale=2.0, layers=layers, threshold=1.02).attach(pipe):
        assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE


def flow_matching():
    scheduler = FlowMatchEulerDiscreteScheduler()
    # The pipeline was made for other schedulers.
    scheduler.init_noise_sigma = 1.0
    scheduler.scale_model_input = lambda sample, timestep: sample
    return scheduler


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VELOCITY = {"prediction_type": "v_prediction"}
SCHEDULERS = {
    "Euler": lambda: EulerDiscreteScheduler(**BETAS, steps_offset=1),
    "flow matching": flow_matching,
    "LCM": lambda: LCMScheduler(**BETAS),
    "TCD": lambda: TCDScheduler(**BETAS),
    "EDM Euler": EDMEulerScheduler,
    "EDM Euler, velocity": lambda: EDMEulerScheduler(**VELOCITY, sigma_data=0.8),
    "EDM Euler, exponential": lambda: EDMEulerScheduler(
        sigma_data=1.0, sigma_max=120.0, sigma_schedule="exponential", **VELOCITY
    ),
    "EDM DPM-Solver": EDMDPMSolverMultistepScheduler,
    "EDM DPM-Solver, velocity": lambda: EDMDPMSolverMultistepScheduler(
        **VELOCITY, sigma_schedule="exponential"
    ),
    "cosine DPM-Solver": CosineDPMSolverMultistepScheduler,
    "cosine DPM-Solver, karras": lambda: CosineDPMSolverMultistepScheduler(
        sigma_data=0.5, sigma_schedule="karras", prediction_type="epsilon"
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_other_schedulers_sdxl_and_sizes_that_are_not_square(name):
    pipe = xl(scheduler=SCHEDULERS[name]())
    run = latents_of(
        pipe,
        **xl_prompts(),
        **size(128, 96),
        guidance_scale=5.0,
        num_inference_steps=3,
        latents=noise(1, 4, 16, 12, seed=9),
    )
    assert_as_by_hand(pipe, run)


@pytest.mark.parametrize(
    "settings",
    [
        {"prediction_type": "epsilon", "use_flow_sigmas": True},
        {"prediction_type": "flow_prediction"},
    ],
)
def test_predictions_that_do_not_go_with_the_noise_levels_are_refused(settings):
    pipe = xl(scheduler=DPMSolverMultistepScheduler(**settings))
    run = latents_of(pipe, **xl_prompts(), **size(), guidance_scale=5.0)
    with (
        SelfAttentionGuidance().attach(pipe),
        pytest.raises(ValueError, match=r"expected a scheduler that tells"),
    ):
        run()


def test_masks_and_source_pictures_in_the_input_stay_as_they_are():
    pipe = sd(StableDiffusionInpaintPipeline, model=new_unet(in_channels=9))
    run = latents_of(
        pipe, **prompts(), **size(), image=picture(), mask_image=mask(), guidance_scale=5.0
    )
    assert_as_by_hand(pipe, run, names=[MID], layers="m0")


def test_the_unconditional_rows_of_instruct_pix2pix_are_the_last():
    model = new_unet(in_channels=8)
    pipe = sd(StableDiffusionInstructPix2PixPipeline, model=model, image_encoder=None)
    run = latents_of(
        pipe, **prompts(), image=picture(), guidance_scale=5.0, image_guidance_scale=1.5
    )
    assert_as_by_hand(pipe, run, names=[MID], layers="m0", group=2, groups=3)


@pytest.mark.parametrize("cls", [MarigoldDepthPipeline, StableDiffusionLatentUpscalePipeline])
def test_pipelines_that_put_other_things_in_or_take_others_out_are_not_known(cls):
    def of(cls):
        pipe = object.__new__(cls)
        vars(pipe)["scheduler"] = ddim()
        return prediction_type(pipe, new_unet())

    assert of(StableDiffusionPipeline) == "epsilon"
    assert of(cls) is None


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
