"""S2-Guidance, time-step guidance and self-guidance equal loops that are written from formulas."""

from contextlib import contextmanager

import pytest
import torch
from comparison import run_of
from diffusers import EDMEulerScheduler
from tiny_flux import CASES as FLUX
from tiny_pipelines import MARGIN, TOLERANCE, difference, xl
from tiny_pixart import CASES as PIXART
from tiny_prx import CASES as PRX
from tiny_unet import CASES as UNETS
from tiny_wan import CASES as WAN
from tiny_z_image import CASES as Z_IMAGE

from smoothed_energy import SelfGuidance, StochasticSelfGuidance, TimeStepGuidance
from smoothed_energy.families import LayerError

SCALE = 2.0


@contextmanager
def guided(denoiser, weaker):
    """s + scale (s - s~) in runs without CFG, where `weaker` gives the arguments of s~."""
    forward, calls = denoiser.forward, []

    def call(*args, **kwargs):
        clean = forward(*args, **kwargs)[0]
        with weaker(len(calls), args, kwargs) as (args, kwargs):
            perturbed = forward(*args, **kwargs)[0]
        calls.append(None)
        if isinstance(clean, list):
            return ([s + SCALE * (s - t) for s, t in zip(clean, perturbed, strict=True)],)
        return (clean + SCALE * (clean - perturbed),)

    denoiser.forward = call
    try:
        yield
    finally:
        del denoiser.forward


def assert_guided_as(case, guidance, weaker):
    pipe = case.pipeline()
    denoiser = getattr(pipe, case.denoiser)
    run = run_of(pipe, case, num_inference_steps=3)
    plain = run()
    with guided(denoiser, lambda *given: weaker(denoiser, *given)):
        expected = run()
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay):
            found = run()
        assert difference(found, expected) < TOLERANCE
    assert difference(expected, plain) > MARGIN * TOLERANCE
    assert torch.equal(run(), plain)


# --- random blocks


def skipping(guidance, names, *, gives_text):
    @contextmanager
    def weaker(denoiser, index, args, kwargs):
        chosen = guidance.perturbation.on(guidance.select(denoiser)).skipped(index)
        assert chosen <= set(names)
        modules = [denoiser.get_submodule(name) for name in chosen]

        def forward(hidden_states, encoder_hidden_states=None, *args, **kwargs):
            both = encoder_hidden_states, hidden_states
            return both if gives_text else hidden_states

        for module in modules:
            module.forward = forward
        try:
            yield args, kwargs
        finally:
            for module in modules:
                del module.forward

    return weaker


def test_blocks_are_skipped_at_random_in_joint_attention():
    guidance = StochasticSelfGuidance(scale=SCALE, share=0.4)
    names = [f"transformer_blocks.{n}" for n in range(2)]
    names += [f"single_transformer_blocks.{n}" for n in range(3)]
    assert_guided_as(FLUX[0], guidance, skipping(guidance, names, gives_text=True))


def test_blocks_are_skipped_at_random_in_a_unet():
    guidance = StochasticSelfGuidance(scale=SCALE, share=0.5, seed=3)
    names = [
        f"{where}.attentions.{n}.transformer_blocks.{m}"
        for where in ("down_blocks.1", "mid_block", "up_blocks.0")
        for n in range(2)
        for m in range(2)
    ]
    assert_guided_as(UNETS[1], guidance, skipping(guidance, names, gives_text=False))


def test_the_same_seed_and_step_skip_the_same_blocks():
    denoiser = WAN[0].pipeline().transformer

    def skipped(**settings):
        guidance = StochasticSelfGuidance(layers="all", **settings)
        perturbation = guidance.perturbation.on(guidance.select(denoiser))
        return [perturbation.skipped(index) for index in range(20)]

    assert skipped(seed=1) == skipped(seed=1) != skipped(seed=2)
    assert len(set(skipped())) > 1
    for share, count in ((0, 1), (0.1, 1), (0.5, 2), (1, 4)):
        assert {len(blocks) for blocks in skipped(share=share)} == {count}
    # Every block is skipped some time.
    assert frozenset.union(*skipped()) == {f"blocks.{n}" for n in range(4)}


# --- the embedding of the time


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (UNETS[1], "time_embedding"),
        (FLUX[0], "time_text_embed.timestep_embedder"),
        (WAN[0], "condition_embedder.time_embedder"),
        (Z_IMAGE[0], "t_embedder"),
    ],
    ids=lambda value: getattr(value, "family", None),
)
def test_the_embedding_of_the_time_gets_noise(case, name):
    guidance = TimeStepGuidance(scale=SCALE, noise=2.0, power=2.0, seed=5)
    plan = guidance.plan(getattr(case.pipeline(), case.denoiser))

    @contextmanager
    def weaker(denoiser, index, args, kwargs):
        module = denoiser.get_submodule(name)
        assert list(plan.edits.values()) == [name]

        def noisy(_, inputs, output):
            noise = plan.perturbation.added(index, 3, output.shape[-1])
            return output + output.norm(dim=-1, keepdim=True) / output.shape[-1] ** 0.5 * noise

        handle = module.register_forward_hook(noisy)
        try:
            yield args, kwargs
        finally:
            handle.remove()

    assert_guided_as(case, guidance, weaker)


def test_the_noise_falls_over_the_schedule():
    perturbation = (
        TimeStepGuidance(noise=2.0, power=2.0).plan(UNETS[0].pipeline().unet).perturbation
    )
    first, last = perturbation.added(0, 4, 4096), perturbation.added(3, 4, 4096)
    assert first.std().item() == pytest.approx(2.0, rel=0.05)
    assert last.std().item() == pytest.approx(2.0 / 16, rel=0.05)
    with pytest.raises(LayerError, match="embeds the time"):
        TimeStepGuidance().attach(PRX[0].pipeline())


# --- a time of more noise


def told(name, place, later):
    @contextmanager
    def weaker(denoiser, index, args, kwargs):
        if name in kwargs:
            kwargs = {**kwargs, name: later(kwargs[name])}
        else:
            args = (*args[:place], later(args[place]), *args[place + 1 :])
        yield args, kwargs

    return weaker


@pytest.mark.parametrize(
    ("case", "weaker"),
    [
        (UNETS[1], told("timestep", 1, lambda t: (t + 80.0).clamp(max=1000.0))),
        (PIXART[0], told("timestep", 1, lambda t: t + 80)),
        # Parts of 1, and how much of the picture there is.
        (FLUX[0], told("timestep", 3, lambda t: (t + 0.08).clamp(max=1.0))),
        (Z_IMAGE[0], told("t", 1, lambda t: (t - 0.08).clamp(min=0.0))),
    ],
    ids=lambda value: getattr(value, "family", None),
)
def test_the_denoiser_is_told_more_noise(case, weaker):
    assert_guided_as(case, SelfGuidance(scale=SCALE, shift=80), weaker)


def test_times_that_cant_be_shifted_are_refused():
    case = WAN[1]  # every token has a time
    pipe = case.pipeline()
    with SelfGuidance().attach(pipe), pytest.raises(ValueError, match="later time"):
        run_of(pipe, case)()
    case = UNETS[1]
    pipe = xl(scheduler=EDMEulerScheduler())
    with SelfGuidance().attach(pipe), pytest.raises(ValueError, match="logarithms"):
        run_of(pipe, case)()


@pytest.mark.parametrize(
    "make",
    [
        lambda: StochasticSelfGuidance(share=2),
        lambda: StochasticSelfGuidance(seed=-1),
        lambda: TimeStepGuidance(noise=0),
        lambda: TimeStepGuidance(power=-1),
        lambda: SelfGuidance(shift=0),
    ],
)
def test_settings_are_checked(make):
    with pytest.raises(ValueError):
        make()
