"""Momentum of the prediction equals the recursion by hand, on the clean pictures of every step."""

import contextlib

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    difference,
    latents_of,
    new_unet,
    prompts,
    sd,
    size,
)

from smoothed_energy import MomentumGuidance


@contextlib.contextmanager
def guided_by_hand(pipe, scale, decay, branch):
    """Both halves gain scale * (x0 - average of earlier x0) of one half, as a change of x0.

    The factors of picture and noise are read off the scheduler's own `alphas_cumprod`.
    """
    forward, average = pipe.unet.forward, []

    def guided(sample, timestep, **kwargs):
        kwargs["return_dict"] = False
        clean = forward(sample, timestep, **kwargs)[0]
        half = len(clean) // 2
        rows = slice(half, None) if branch == "conditional" else slice(0, half)
        product = pipe.scheduler.alphas_cumprod[int(timestep)]
        signal, noise = product.sqrt(), (1 - product).sqrt()
        kind = pipe.scheduler.config.prediction_type
        x, output = sample[rows], clean[rows]
        if kind == "epsilon":
            picture, slope = (x - noise * output) / signal, -noise / signal
        else:
            picture, slope = signal * x - noise * output, -noise
        delta = 0 * output
        if average:
            delta = scale * (picture - average[0]) / slope
            average[0] = decay * average[0] + (1 - decay) * picture
        else:
            average.append(picture)
        return (clean + torch.cat([delta, delta]),)

    pipe.unet.forward = guided
    try:
        yield
    finally:
        del pipe.unet.forward


@pytest.mark.parametrize("branch", ["conditional", "unconditional"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
# Euler scales the denoiser's input by the noise level; DDIM does not.
@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
def test_momentum_is_the_recursion_by_hand(scheduler, kind, branch):
    pipe = sd(model=new_unet())
    pipe.scheduler = scheduler.from_config(
        pipe.scheduler.config, prediction_type=kind, timestep_spacing="leading"
    )
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=5.0, num_inference_steps=4)
    plain = run()
    with guided_by_hand(pipe, 0.5, 0.3, branch):
        expected = run()
    assert difference(plain, expected) > MARGIN * TOLERANCE
    guidance = MomentumGuidance(scale=0.5, decay=0.3, formulation=branch)
    with guidance.attach(pipe) as attachment:
        first, again = run(), run()
    assert difference(first, expected) < TOLERANCE
    # The second run remembers nothing of the first.
    assert torch.equal(first, again)
    assert attachment.last_run.guided_calls == 4


def test_momentum_of_predictions_is_the_recursion_by_hand():
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=5.0, num_inference_steps=4)
    forward, average, plain = pipe.unet.forward, [], run()

    def guided(sample, timestep, **kwargs):
        kwargs["return_dict"] = False
        clean = forward(sample, timestep, **kwargs)[0]
        c = clean[len(clean) // 2 :]
        m = average.pop() if average else c
        average.append(0.3 * m + 0.7 * c)
        return (clean + 0.5 * (c - m).repeat(2, 1, 1, 1),)

    pipe.unet.forward = guided
    try:
        expected = run()
    finally:
        del pipe.unet.forward
    with MomentumGuidance(scale=0.5, decay=0.3, of="prediction").attach(pipe):
        assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE


def test_a_first_step_alone_has_no_correction():
    pipe = sd(model=new_unet())
    run = latents_of(pipe, **prompts(1), **size(), guidance_scale=5.0, num_inference_steps=4)
    plain = run()
    with MomentumGuidance(scale=1.0, steps="0:0.25").attach(pipe):
        assert torch.equal(run(), plain)
