"""Pictures are the same bits with a trace and without one, and nothing of it stays behind."""

import math
from contextlib import ExitStack

import pytest
import torch
from comparison import run_of
from modular_pipelines import is_patched, modular_xl
from modular_pipelines import run as run_modular
from tiny_animatediff import SPATIAL, motion_unet
from tiny_flux import CASES as FLUX
from tiny_flux import transformer as flux_transformer
from tiny_lumina2 import CASES as LUMINA2
from tiny_pipelines import latents_of, new_pixel_unet, prompts, sd, size, unet, xl_prompts, xl_unet
from tiny_sd3 import CASES as SD3

from smoothed_energy import (
    EntropyRectifyingGuidance,
    GuidanceInterval,
    GuidanceWarning,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
)
from smoothed_energy.modular import SmoothedEnergyGuider
from smoothed_energy.trace import TRACE_METRICS, Trace

EVERYTHING = {"layers": "all", "metrics": list(TRACE_METRICS), "trajectory": True}


def assert_same_bits(pipe, run, guidances=(), target=None, **options):
    """The trace of a run that gives the same with it and without."""
    with ExitStack() as stack:
        for guidance in guidances:
            stack.enter_context(guidance.attach(pipe))
        expected = run()
        with Trace(pipe if target is None else target, **{**EVERYTHING, **options}) as trace:
            found = run()
        again = run()
    assert torch.equal(found, expected)
    assert torch.equal(again, expected)
    assert len(trace.steps) > 0
    return trace


def run_sd(pipe, *, steps=4, count=2, **arguments):
    settings = {**prompts(count), **size(), "num_inference_steps": steps, "guidance_scale": 5.0}
    return latents_of(pipe, **{**settings, **arguments})


def seg(**changes):
    return SmoothedEnergyGuidance(**{"layers": "mid", **changes})


@pytest.mark.parametrize(
    "arguments", [{}, {"guidance_scale": 1.0}, {"guidance_rescale": 0.7}], ids=str
)
@pytest.mark.parametrize(
    "guidances",
    [
        [],
        [seg()],
        [seg(blur="gaussian:1", steps="begin")],
        [seg(blur="gaussian:1", every=2, formulation="unconditional")],
        [seg(), PerturbedAttentionGuidance(layers="up"), SelfAttentionGuidance(layers="mid")],
        [EntropyRectifyingGuidance(layers="all"), GuidanceInterval("0.5:1")],
    ],
    ids=["unguided", "seg", "begin", "every second", "three", "interval"],
)
def test_of_stable_diffusion(guidances, arguments):
    pipe = sd()
    trace = assert_same_bits(pipe, run_sd(pipe, **arguments), guidances)
    assert trace.steps["step"].max() == 3
    assert {"d0", "m0", "u0", "u1"} == set(trace.layers["code"])
    needed = ["frobenius_norm", "laplacian_variance", "gradient_entropy", "energy"]
    assert trace.layers[needed].notna().all(axis=None)


@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize(
    "case",
    [FLUX[0], FLUX[1], SD3[0], LUMINA2[0], SPATIAL],
    ids=lambda value: getattr(value, "family", value),
)
def test_of_other_families(case, cfg):
    pipe = case.pipeline()
    guidance = seg(blur="gaussian:1", layers=list(case.images))
    trace = assert_same_bits(pipe, run_of(pipe, case, cfg=cfg), [guidance])
    assert trace.layers["energy"].notna().all()
    assert ("effective_cfg_scale" in trace.steps) == cfg
    branches = {"conditional", "unconditional"} if cfg else {"conditional"}
    assert set(trace.layers["branch"]) == branches
    unguided = assert_same_bits(pipe, run_of(pipe, case, cfg=cfg))
    if cfg:
        assert set(unguided.steps["effective_cfg_scale"]) == {case.scale}
    assert len(unguided.steps) == len(trace.steps)
    assert len(unguided.layers) == len(trace.layers)


def test_of_a_pipeline_without_text():
    from diffusers import DDPMPipeline, DDPMScheduler

    pipe = DDPMPipeline(new_pixel_unet(), DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)

    def run():
        generator = torch.Generator().manual_seed(3)
        found = pipe(batch_size=2, num_inference_steps=3, generator=generator, output_type="np")
        return torch.from_numpy(found.images)

    trace = assert_same_bits(pipe, run, [seg()])
    assert trace.layers["code"].unique().tolist() == ["m0"]


@pytest.mark.parametrize("guidances", [[], ["seg"], ["seg", "pag; layers=up"]], ids=str)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_of_modular_diffusers(guidances, scale):
    guider = SmoothedEnergyGuider(guidances, guidance_scale=scale)
    pipe = modular_xl(guider)
    guider = pipe.guider
    guider.scheduler = pipe.scheduler
    run = lambda: run_modular(pipe, xl_prompts(2), steps=3, **size())  # noqa: E731
    for target in (pipe, guider):
        trace = assert_same_bits(pipe, run, target=target)
        assert trace.steps["step"].tolist() == [0, 0, 1, 1, 2, 2]
        expected = {"conditional", "unconditional"} if scale > 1 else {"conditional"}
        assert set(trace.layers["branch"]) == expected
        assert trace.steps["sigma"].notna().all()
        assert trace.steps["run"].max() == 0
    assert not is_patched(xl_unet())


@pytest.mark.parametrize("processor", ["AttnProcessor", "SlicedAttnProcessor"])
def test_of_attention_that_is_not_native(processor):
    import diffusers.models.attention_processor as processors

    made = getattr(processors, processor)(*([1] if processor.startswith("Sliced") else []))
    pipe = sd()
    native = assert_same_bits(pipe, run_sd(pipe, steps=1)).layers
    before = unet().attn_processors
    unet().set_attn_processor(made)
    try:
        trace = assert_same_bits(pipe, run_sd(pipe, steps=1))
    finally:
        unet().set_attn_processor(before)
    for name in ("energy", "frobenius_norm"):
        found, expected = trace.layers[name].to_numpy(), native[name].to_numpy()
        assert found == pytest.approx(expected, rel=1e-4)


def test_after_the_block_the_pipeline_is_as_before():
    pipe = sd()
    run = run_sd(pipe, steps=1)
    run()
    cls, state = type(pipe), set(vars(pipe))
    with Trace(pipe) as trace:
        run()
        assert type(pipe) is not cls
    assert type(pipe) is cls
    assert set(vars(pipe)) == state
    assert not is_patched(unet())
    count = len(trace.steps)
    run()
    assert len(trace.steps) == count


def test_a_failing_block_leaves_nothing_behind():
    pipe = sd()
    cls = type(pipe)

    def fail(*args):
        raise KeyError("in the middle")

    with pytest.raises(KeyError), Trace(pipe) as trace, seg().attach(pipe):
        run_sd(pipe, callback_on_step_end=fail)()
    assert type(pipe) is cls
    assert not is_patched(unet())
    assert trace.steps["step"].unique().tolist() == [0]


def test_guidance_outlives_a_trace_and_a_trace_guidance():
    pipe = sd()
    run = run_sd(pipe, steps=1)
    with seg().attach(pipe):
        guided = run()
    plain = run()
    with Trace(pipe, layers=(), metrics=()) as trace:
        with seg().attach(pipe):
            assert torch.equal(run(), guided)
        assert torch.equal(run(), plain)
    with seg().attach(pipe):
        with Trace(pipe, layers=(), metrics=()):
            assert torch.equal(run(), guided)
        assert torch.equal(run(), guided)
    assert trace.per_picture()["guided_steps"].tolist() == [1, 1, 0, 0]


def test_two_traces_at_once_see_the_same():
    pipe = sd()
    with Trace(pipe) as one, Trace(pipe, layers="all") as other:
        run_sd(pipe, steps=2)()
    names = ["effective_cfg_scale", "latents.gradient_entropy", "text_norm"]
    assert one.steps[names].equals(other.steps[names])
    assert set(one.layers["code"]) < set(other.layers["code"])
    both = other.layers[other.layers["code"] == "m0"].reset_index(drop=True)
    assert both.equals(one.layers)


def test_entered_again_it_goes_on_with_other_runs():
    pipe = sd()
    trace = Trace(pipe, layers=(), metrics=())
    for _ in range(2):
        with trace:
            run_sd(pipe, steps=2, count=1)()
            run_sd(pipe, steps=1, count=1)()
    assert trace.steps[["run", "step"]].to_numpy().tolist() == [
        [0, 0], [0, 1], [1, 0], [2, 0], [2, 1], [3, 0],
    ]  # fmt: skip
    with trace:
        with pytest.raises(RuntimeError, match="recording already"):
            trace.__enter__()
        run_sd(pipe, steps=1)()


def test_it_warns_if_there_was_nothing_to_trace():
    pipe = sd()
    with pytest.warns(GuidanceWarning, match="no step was traced"), Trace(pipe):
        pass
    assert trace_is_empty(Trace(pipe))


def trace_is_empty(trace):
    return trace.steps.empty and trace.layers.empty


def test_an_unguided_loop_of_two_calls_may_leave_one_out():
    text = prompts(2)
    x = torch.randn(2, 4, 12, 8, generator=torch.Generator().manual_seed(1))
    with Trace(unet(), layers=(), metrics=()) as trace, torch.no_grad():
        for step in range(3):
            trace.step(step, 3, branch="conditional", cfg_scale=5.0)
            unet()(x, 500, encoder_hidden_states=text["prompt_embeds"])
            if step != 1:
                trace.step(step, 3, branch="unconditional", cfg_scale=5.0)
                unet()(x, 500, encoder_hidden_states=text["negative_prompt_embeds"])
    scales = trace.steps["effective_cfg_scale"].to_numpy().reshape(3, 2)
    assert scales[[0, 2]].tolist() == [[5.0, 5.0]] * 2
    assert torch.from_numpy(scales[1]).isnan().all()


def test_models_of_the_tests_are_not_left_patched():
    assert not is_patched(unet())
    assert not is_patched(flux_transformer())
    assert not is_patched(motion_unet())


@pytest.mark.parametrize(("second", "expected"), [(3.0, 3.0), (1.0, 1.0)])
def test_two_denoisers_of_one_run_are_one_run(second, expected):
    from test_wan import run_two, two

    pipe = two()
    run = run_two(pipe, guidance_scale=5.0, guidance_scale_2=second)
    for guidances in ([], [seg(layers="all", blur="gaussian:1")]):
        trace = assert_same_bits(pipe, run, guidances)
        assert trace.steps["run"].max() == 0
        if guidances:
            # Less what the guidance adds; where CFG's scale is 1, u is never used.
            added = trace.steps["correction_parallel"] / trace.steps["text_norm"]
            found = trace.steps["effective_cfg_scale"] - added
            wanted = [5.0] * 4 + [second if second > 1 else math.nan] * 4
        else:
            found, wanted = trace.steps["effective_cfg_scale"], [5.0] * 4 + [expected] * 4
        assert found.tolist() == pytest.approx(wanted, nan_ok=True)


def test_layers_that_a_cache_may_skip_are_refused_and_steps_are_not():
    from test_caches import WAN, cached

    pipe = cached(WAN)
    run = run_of(pipe, WAN, cfg=True)
    with pytest.raises(RuntimeError, match="has a cache that may skip them"), Trace(pipe):
        run()
    trace = assert_same_bits(pipe, run, layers=(), metrics=())
    assert trace.steps["effective_cfg_scale"].notna().all()


def test_a_batch_that_nobody_explained_is_warned_of():
    x, text = torch.zeros(2, 4, 12, 8), prompts(2)["prompt_embeds"]
    told = pytest.warns(GuidanceWarning, match=r"each of the 2 rows .* counts as a picture")
    with Trace(unet(), layers=(), metrics=()), torch.no_grad(), told:
        unet()(x, 500, encoder_hidden_states=text)
