"""Guidance of Ideogram 4."""

import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import _guided, giving
from tiny_ideogram4 import CASES
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import GuidanceInterval, SkipLayerGuidance, SmoothedEnergyGuidance
from smoothed_energy.families import Arguments, family_of

CASE = CASES[0]
LAYER = next(iter(CASE.images))
SCHEDULE = {"guidance_scale": None, "guidance_schedule": [4.0, 1.0, 2.0]}


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(sigma):
    assert_guided_as_by_brute_force(CASE, cfg=True, sigma=sigma)


def test_a_schedule_of_scales():
    """Skipped layers, by hand in all calls with the prompt; at 1 what is without it is dropped."""
    pipe = CASE.pipeline()
    run = run_of(pipe, CASE, num_inference_steps=3, **SCHEDULE)
    plain, denoiser = run(), pipe.transformer
    module = denoiser.layers[1]
    guidance = SkipLayerGuidance(scale=2.8, layers=LAYER, skip="block")
    with _guided(denoiser, module, lambda own, step: giving("hidden_states")):
        # Guided c gives g delta, and delta is wanted.
        own, step = denoiser.forward, iter(SCHEDULE["guidance_schedule"])
        clean = type(denoiser).forward

        def divided(*args, **kwargs):
            (guided,), (before,) = own(*args, **kwargs), clean(denoiser, *args, **kwargs)
            return (before + (guided - before) / next(step),)

        denoiser.forward = divided
        expected = run()
    with guidance.attach(pipe):
        assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE
    assert torch.equal(run(), plain)


def test_skipped_feed_forward_network():
    pipe = CASE.pipeline()
    run = run_of(pipe, CASE, guidance_scale=1.0)
    module = pipe.transformer.layers[1].feed_forward
    with _guided(pipe.transformer, module, lambda own, step: lambda tokens: tokens):
        expected = run()
    with SkipLayerGuidance(scale=2.8, layers=LAYER, skip="feed-forward").attach(pipe):
        assert difference(run(), expected) < TOLERANCE


def test_what_predicts_without_the_prompt_is_not_perturbed():
    pipe = CASE.pipeline()
    guidance = SmoothedEnergyGuidance(layers="b1", formulation="unconditional")
    with guidance.attach(pipe), pytest.raises(RuntimeError, match='formulation="conditional"'):
        run_of(pipe, CASE)()


def test_interval():
    """What the other denoiser would give is left out without CFG."""
    pipe = CASE.pipeline()
    with GuidanceInterval(steps="0.5:1").attach(pipe):
        found = run_of(pipe, CASE)()
    expected = run_of(pipe, CASE, guidance_scale=None, guidance_schedule=[1.0, 4.0])()
    assert difference(found, expected) < TOLERANCE


def test_layout():
    """As the pipeline puts tokens together."""
    denoiser = CASE.pipeline().transformer
    places = torch.cartesian_prod(torch.arange(6), torch.arange(4)) + 100
    given = {
        "position_ids": torch.cat([torch.zeros(24, 1), places], dim=1)[None],
        "indicator": torch.full((1, 24), 2),
    }
    layout = family_of(denoiser).latent_layout(denoiser, Arguments(given.get))
    tokens = torch.arange(24 * 16.0).view(1, 24, 16)
    latents = tokens.view(1, 6, 4, 2, 2, 4).permute(0, 5, 1, 3, 2, 4).reshape(1, 4, 12, 8)
    assert torch.equal(layout.unpack(tokens), latents)
    assert torch.equal(layout.pack(latents, tokens), tokens)
