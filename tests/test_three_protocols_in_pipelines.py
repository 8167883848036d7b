"""Guidance of whole runs: pipelines of one batch and of two calls, and guiders of the same models.

All give the latents that brute force gives, by as many passes as are written down.
"""

import functools
from contextlib import contextmanager

import pytest
import torch
from brute_force_attention import brute_force as brute_force_of_transformer
from brute_force_guidance import Term, brute_force
from comparison import run_of
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from modular_pipelines import modular_xl, run_xl, xl_arguments
from modular_pipelines import run as run_modular
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    XL_MID,
    cfg,
    difference,
    latents_of,
    noise,
    quiet,
    size,
    xl,
    xl_mid_grids,
    xl_prompts,
)
from tiny_wan import CASES, transformer, wan

from protocol_cases import ON_C, ON_U, PLAIN, counts
from protocol_loops import passes_of
from smoothed_energy import GuidanceInterval, SmoothedEnergyGuidance
from smoothed_energy.modular import SmoothedEnergyGuider

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
WAN = CASES[0]
G = 5.0


def denoisers_of(pipe):
    """The denoisers of a pipeline, each with a module at its end."""
    found = {"unet": "conv_out", "transformer": "proj_out", "transformer_2": "proj_out"}
    denoisers = {getattr(pipe, name, None): end for name, end in found.items()}
    return {one: getattr(one, end) for one, end in denoisers.items() if one is not None}


@contextmanager
def passes_of_steps(pipe):
    """A block in which the passes of each step of a run are written down."""
    steps, calls = [], []
    step, denoisers = pipe.scheduler.step, denoisers_of(pipe)
    with passes_of(*denoisers.values()) as passes:
        # At the end of a call: what is done before it is done before each of its passes.
        def end(*args):
            calls.append(passes.taken())

        @functools.wraps(step)  # pipelines look at its parameters
        def counted(*args, **kwargs):
            assert set(calls[2:]) <= {"-"}
            steps.append("|".join(calls[:2]))
            calls.clear()
            return step(*args, **kwargs)

        hooks = [denoiser.register_forward_hook(end) for denoiser in denoisers]
        pipe.scheduler.step = counted
        try:
            yield steps
        finally:
            for hook in hooks:
                hook.remove()
            del pipe.scheduler.step


class Acting:
    """A correction that acts as it is said of each step: anew, again as before, or not at all."""

    def __init__(self, *steps):
        self.steps = iter(steps)

    def __call__(self, delta, *predictions):
        step = next(self.steps)
        if step == "anew":
            self.kept = delta
        return torch.zeros_like(delta) if step == "not" else self.kept


ANEW, AGAIN, NOT = "anew", "again", "not"
# Of four steps: the settings, how they act, and how many calls of two passes there are.
RUNS = {
    "all steps": ({}, (ANEW,) * 4, 4),
    "every=2": ({"every": 2}, (ANEW, AGAIN) * 2, 2),
    "three steps, every=2, unconditional": (
        {"every": 2, "steps": "0:0.7", "formulation": "unconditional"},
        (ANEW, AGAIN, ANEW, NOT),
        2,
    ),
}
each_run = pytest.mark.parametrize("name", RUNS)


def passes_of_run(name, *, one_batch):
    """For each of four steps."""
    settings, acts, _ = RUNS[name]
    active = ON_U if settings.get("formulation") else ON_C
    return [(active if act == ANEW else PLAIN)[not one_batch] for act in acts]


def assert_run(found, expected, plain):
    print(f"\nerror {difference(found, expected):.1e}, effect {difference(plain, expected):.1e}")
    assert difference(plain, expected) > MARGIN * TOLERANCE
    assert difference(found, expected) < TOLERANCE


def sdxl_by_hand(name):
    """What SDXL gives by brute force, and without guidance."""
    settings, acts, _ = RUNS[name]
    pipe = xl()
    run = latents_of(
        pipe, **xl_prompts(2), **size(), guidance_scale=G, num_inference_steps=len(acts)
    )
    term = Term(xl_mid_grids(), branch=settings.get("formulation", "c")[0], combine=Acting(*acts))
    plain = run()
    with brute_force(pipe.unet, term, cfg(G)):
        return pipe, run, run(), plain


@each_run
def test_a_pipeline_of_one_batch_is_guided_as_by_hand(name):
    settings, acts, anew = RUNS[name]
    pipe, run, wanted, plain = sdxl_by_hand(name)
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers="mid", **settings)
    with (
        guidance.attach(pipe) as attachment,
        passes_of_steps(pipe) as steps,
    ):
        assert_run(run(), wanted, plain)
    assert steps == passes_of_run(name, one_batch=True)
    assert attachment.last_run == counts(4, anew, acts.count(AGAIN), 0, XL_MID)


@each_run
def test_a_guider_of_sdxl_is_guided_as_by_hand(name):
    settings, _, _ = RUNS[name]
    _, _, wanted, plain = sdxl_by_hand(name)
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers="mid", **settings)
    pipe = modular_xl(SmoothedEnergyGuider(guidance, guidance_scale=G))
    with passes_of_steps(pipe) as steps:
        assert_run(run_xl(pipe, prompts=xl_arguments(2), steps=4), wanted, plain)
    assert steps == passes_of_run(name, one_batch=False)


VIDEO = {"latents": noise(2, 4, 3, 8, 12, seed=9), "num_inference_steps": 4}


def wan_by_hand(name):
    """What Wan gives by brute force, and without guidance."""
    settings, acts, _ = RUNS[name]
    pipe = wan()
    run = run_of(pipe, WAN, cfg=True, **VIDEO)
    plain = run()
    with brute_force_of_transformer(
        pipe,
        WAN,
        cfg=True,
        branch=settings.get("formulation", "conditional"),
        combined_with=Acting(*acts),
    ):
        return pipe, run, run(), plain


@each_run
def test_a_pipeline_of_two_calls_is_guided_as_by_hand(name):
    settings, acts, anew = RUNS[name]
    pipe, run, wanted, plain = wan_by_hand(name)
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers=list(WAN.images), **settings)
    with (
        guidance.attach(pipe) as attachment,
        passes_of_steps(pipe) as steps,
    ):
        assert_run(run(), wanted, plain)
    assert steps == passes_of_run(name, one_batch=False)
    assert attachment.last_run == counts(8, anew, acts.count(AGAIN), 0, WAN.images)


def modular_wan(guidance):
    """A modular pipeline of the same model, and what it is called with."""
    ordinary, pipe = wan(), quiet(WanCoreDenoiseStep().init_pipeline())
    pipe.update_components(
        transformer=ordinary.transformer,
        scheduler=ordinary.scheduler,
        guider=SmoothedEnergyGuider(guidance, guidance_scale=WAN.scale),
    )
    prompts = {key: value for key, value in WAN.arguments.items() if key != "guidance_scale"}
    return pipe, {**prompts, "latents": VIDEO["latents"]}


@each_run
def test_a_guider_of_wan_is_guided_as_by_hand(name):
    settings, _, _ = RUNS[name]
    _, _, wanted, plain = wan_by_hand(name)
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers=list(WAN.images), **settings)
    pipe, prompts = modular_wan(guidance)
    with passes_of_steps(pipe) as steps:
        assert_run(run_modular(pipe, prompts, steps=4), wanted, plain)
    assert steps == passes_of_run(name, one_batch=False)


INTERVAL = GuidanceInterval("0:0.5")


def sdxl_in_an_interval():
    """What SDXL gives by brute force with CFG in two of four steps, and without guidance."""
    pipe = xl()
    run = latents_of(pipe, **xl_prompts(2), **size(), guidance_scale=G, num_inference_steps=4)
    plain, branches = run(), [cfg(G)] * 2 + [cfg(1.0)] * 2
    with brute_force(pipe.unet, Term(xl_mid_grids()), branches.__getitem__):
        return pipe, run, run(), plain


def test_an_interval_leaves_a_pipeline_of_one_batch_the_rows_with_the_prompt():
    pipe, run, wanted, plain = sdxl_in_an_interval()
    with (
        SmoothedEnergyGuidance(blur="gaussian:1", layers="mid").attach(pipe) as attachment,
        INTERVAL.attach(pipe) as limit,
        passes_of_steps(pipe) as steps,
    ):
        assert_run(run(), wanted, plain)
    assert steps == ["4+2"] * 2 + ["2+2"] * 2
    assert attachment.last_run == counts(4, 4, layers=XL_MID)
    assert limit.last_run == counts(4, 2, without_cfg=2, layers=())


def test_an_interval_leaves_a_guider_the_batch_with_the_prompt():
    _, _, wanted, plain = sdxl_in_an_interval()
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers="mid")
    pipe = modular_xl(SmoothedEnergyGuider([guidance, INTERVAL], guidance_scale=G))
    with passes_of_steps(pipe) as steps:
        assert_run(run_xl(pipe, prompts=xl_arguments(2), steps=4), wanted, plain)
    # What is called second is the perturbed batch, and its prediction is known.
    assert steps == ["2+2|2"] * 2 + ["2+2|-"] * 2


def test_an_interval_leaves_a_pipeline_of_two_calls_the_one_with_the_prompt():
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers=list(WAN.images))
    pipe = wan()
    run = run_of(pipe, WAN, cfg=True, **VIDEO)
    plain = run()
    wanted = run_modular(*modular_wan([guidance, INTERVAL]), steps=4)
    with (
        guidance.attach(pipe) as attachment,
        INTERVAL.attach(pipe) as limit,
        passes_of_steps(pipe) as steps,
    ):
        assert_run(run(), wanted, plain)
    assert steps == ["2+2|2"] * 2 + ["2+2|-"] * 2
    assert attachment.last_run == counts(8, 4, layers=WAN.images)
    assert limit.last_run == counts(8, 4, without_cfg=4, layers=())


def test_where_cfg_has_a_scale_of_one_the_call_without_the_prompt_is_not_guided():
    denoisers = {"transformer": transformer(0, 4), "transformer_2": transformer(3, 4)}
    pipe = wan(**denoisers, boundary_ratio=0.875)
    guidance = SmoothedEnergyGuidance(layers=list(WAN.images), formulation="unconditional")
    run = run_of(pipe, WAN, cfg=True, guidance_scale_2=1.0, num_inference_steps=4)
    with guidance.attach(pipe) as attachment, passes_of_steps(pipe) as steps:
        run()
    assert steps == ["2|2+2"] * 2 + ["2+2|2"] * 2
    assert attachment.last_run == counts(8, 4, layers=WAN.images)
