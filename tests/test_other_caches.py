"""Denoisers into which other packages put caches are refused; patches that keep nothing work.

Each stand-in contaminates: what one pass computes is given to another.
"""

import copy

import pytest
import tiny_flux
import torch
from brute_force_guidance import Term
from comparison import run_of
from tiny_pipelines import (
    DOWN,
    MID,
    UP,
    assert_guided_as_by_brute_force,
    cfg,
    difference,
    guidance_for,
    latents_of,
    mid_grids,
    new_unet,
    prompts,
    sd,
    size,
)

from other_caches import deep_cache, replaced, tea_cache_of_class
from smoothed_energy import (
    EntropyRectifyingGuidance,
    GuidanceInterval,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SlidingWindowGuidance,
    SmoothedEnergyGuidance,
    Steps,
    TokenPerturbationGuidance,
)
from smoothed_energy.layers import self_attention_layers

TERM = Term(mid_grids())
KEEPS = r"keeps what it computed"


def unet_run(guidance_scale=5.0, **changes):
    pipe = sd(model=new_unet())
    steps = {"num_inference_steps": 4} | changes
    return pipe, latents_of(pipe, **prompts(), **size(), guidance_scale=guidance_scale, **steps)


def flux_run():
    pipe = tiny_flux.flux(denoiser=copy.deepcopy(tiny_flux.transformer()))
    return pipe, run_of(pipe, tiny_flux.CASES[0], num_inference_steps=4)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize(
    "guidance",
    [
        PerturbedAttentionGuidance(scale=1e-9),
        SmoothedEnergyGuidance(scale=1e-9),
        SkipLayerGuidance(scale=1e-9, layers="m0"),
        SlidingWindowGuidance(scale=1e-9),
        # Guided where the helper stores nothing, and where it stores only.
        SmoothedEnergyGuidance(scale=1e-9, steps="every:2,offset=1"),
        SmoothedEnergyGuidance(scale=1e-9, steps="0:0.25"),
    ],
    ids=lambda guidance: f"{guidance.method} {guidance.steps}",
)
def test_a_helper_that_keeps_outputs_of_blocks_is_refused(guidance, guidance_scale):
    pipe, run = unet_run(guidance_scale)
    plain = run()
    with deep_cache(pipe):
        cached = run()
    assert difference(cached, plain) > 1e-3
    with (
        deep_cache(pipe),
        guidance.attach(pipe),
        pytest.raises(RuntimeError, match=rf"{KEEPS}.*expected FirstBlockCacheConfig"),
    ):
        run()
    # Unguided it works, and so does guidance without it.
    with deep_cache(pipe):
        assert torch.equal(run(), cached)
    with guidance.attach(pipe):
        assert difference(run(), plain) < 1e-5


def test_the_error_names_the_module_and_the_function_in_its_place():
    pipe, run = unet_run()
    with (
        deep_cache(pipe),
        guidance_for(TERM).attach(pipe),
        pytest.raises(
            RuntimeError, match=r"DeepCacheLike\._wrap.*\.wrapped_forward of other_c"
        ) as error,
    ):
        run()
    assert "UNet2DConditionModel" in str(error.value)


def test_an_interval_of_cfg_beside_such_a_helper_is_refused():
    pipe, run = unet_run()
    with (
        deep_cache(pipe),
        GuidanceInterval(Steps(0, 0.25)).attach(pipe),
        pytest.raises(RuntimeError, match=KEEPS),
    ):
        run()


def test_a_helper_below_offloading_is_refused():
    from accelerate.hooks import ModelHook, add_hook_to_module

    pipe, run = unet_run()
    with deep_cache(pipe):
        for module in pipe.unet.modules():
            add_hook_to_module(module, ModelHook())
        with guidance_for(TERM).attach(pipe), pytest.raises(RuntimeError, match=KEEPS):
            run()


def test_a_helper_that_is_enabled_while_guidance_is_attached_is_refused():
    pipe, run = unet_run()
    with guidance_for(TERM).attach(pipe):
        run()
        with deep_cache(pipe), pytest.raises(RuntimeError, match=KEEPS):
            run()
        run()


@pytest.mark.parametrize(
    "guidance",
    [
        SmoothedEnergyGuidance(scale=1e-9, layers="b0"),
        PerturbedAttentionGuidance(scale=1e-9, layers="s1"),
    ],
    ids=lambda guidance: guidance.method,
)
def test_a_forward_function_of_a_class_that_keeps_residuals_is_refused(guidance):
    pipe, run = flux_run()
    plain = run()
    with tea_cache_of_class(pipe.transformer):
        cached = run()
    assert difference(cached, plain) > 1e-3
    with (
        tea_cache_of_class(pipe.transformer),
        guidance.attach(pipe),
        pytest.raises(RuntimeError, match=KEEPS),
    ):
        run()
    with guidance.attach(pipe):
        assert difference(run(), plain) < 1e-5


_kept = {}


def keeping_in_a_closure():
    before = None

    def forward(original, *args, **kwargs):
        nonlocal before
        before = original(*args, **kwargs)
        return before

    return forward


def keeping_in_a_global(original, *args, **kwargs):
    _kept["output"] = original(*args, **kwargs)
    return _kept["output"]


def keeping_in_a_default(original, *args, kept=[], **kwargs):  # noqa: B006
    kept[:] = [original(*args, **kwargs)]
    return kept[0]


@pytest.mark.parametrize(
    "forward",
    [keeping_in_a_closure(), keeping_in_a_global, keeping_in_a_default],
    ids=["closure", "global", "default"],
)
def test_wherever_outputs_are_kept_they_are_found(forward):
    pipe, run = unet_run()
    block = pipe.unet.up_blocks[1]
    with (
        replaced(block, forward),
        guidance_for(TERM).attach(pipe),
        pytest.raises(RuntimeError, match=rf"up_blocks\.1 .*{KEEPS}"),
    ):
        run()


def test_packages_that_mark_a_denoiser_as_cached_are_refused():
    # ParaAttention and cache-dit: blocks are exchanged within the denoiser's forward function.
    pipe, run = flux_run()
    pipe.transformer._is_cached = True
    guidance = SmoothedEnergyGuidance(layers="b0")
    with guidance.attach(pipe), pytest.raises(RuntimeError, match="_is_cached"):
        run()


def test_a_layer_that_ran_in_the_clean_pass_only_is_an_error():
    # A cache that keeps nothing that can be found: it knows by the object that it was given.
    pipe, run = unet_run(1.0)
    calls = []

    def every_second(original, hidden_states, *args, **kwargs):
        calls.append(1)
        if len(calls) % 2:
            return original(hidden_states, *args, **kwargs)
        return hidden_states

    block = pipe.unet.get_submodule(MID.rpartition(".")[0])
    with (
        replaced(block, every_second),
        guidance_for(TERM).attach(pipe),
        pytest.raises(RuntimeError, match=rf"{MID} .*was not reached in the second pass"),
    ):
        run()


def logged(calls):
    def forward(original, *args, **kwargs):
        calls.append(tuple(args[0].shape) if args else None)
        return original(*args, **kwargs)

    return forward


def doubled_backbone(original, hidden_states, *args, **kwargs):
    # FreeU by hand.
    half = hidden_states.shape[1] // 2
    hidden_states = torch.cat([1.3 * hidden_states[:, :half], hidden_states[:, half:]], dim=1)
    return original(hidden_states, *args, **kwargs)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_patches_that_keep_nothing_are_guided_as_by_brute_force(guidance_scale):
    pipe, run = unet_run(guidance_scale)
    calls = []
    branches = cfg(5.0) if guidance_scale > 1 else None
    term = Term({DOWN: (12, 8), MID: (6, 4), UP[0]: (12, 8)})
    with (
        replaced(pipe.unet.up_blocks[0], doubled_backbone),
        replaced(pipe.unet.mid_block, logged(calls)),
        replaced(pipe.unet.down_blocks[0].resnets[0], logged(calls)),
    ):
        assert_guided_as_by_brute_force(
            pipe, run, term, *([branches] if branches else []), replay=(True, False)
        )
    assert calls


def sequential(pipe):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for module in pipe.unet.modules():
        add_hook_to_module(module, AlignDevicesHook("cpu", io_same_device=True))


def layerwise(pipe):
    pipe.unet.enable_layerwise_casting(torch.float16, torch.float32)


def groups(pipe):
    if not torch.accelerator.is_available() and torch.__version__ < "2.7":
        pytest.skip("before torch 2.7 group offloading needs an accelerator")
    pipe.unet.enable_group_offload(
        torch.device("cpu"), torch.device("cpu"), "block_level", num_blocks_per_group=1
    )


def free_u(pipe):
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


def lora(pipe):
    from peft import LoraConfig

    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))


def compiled_block(pipe):
    pipe.unet.mid_block.compile(backend="eager")
    pipe.unet.up_blocks[0] = torch.compile(pipe.unet.up_blocks[0], backend="eager")


@pytest.mark.parametrize(
    "change",
    [sequential, layerwise, groups, free_u, lora, compiled_block],
    ids=lambda change: change.__name__,
)
def test_what_is_no_cache_raises_no_alarm(change):
    pipe, run = unet_run()
    change(pipe)
    guidances = [
        SmoothedEnergyGuidance(),
        EntropyRectifyingGuidance(layers="all"),
        TokenPerturbationGuidance(layers="down"),
    ]
    for guidance in guidances:
        with guidance.attach(pipe) as attachment:
            run()
        assert attachment.last_run.guided_calls == 4


def test_no_class_of_diffusers_looks_replaced():
    from smoothed_energy.intercept.replaced import replaced_forwards

    for denoiser in (new_unet(), tiny_flux.transformer()):
        assert self_attention_layers(denoiser)
        assert replaced_forwards(denoiser) == {}
        compiled = copy.deepcopy(denoiser)
        compiled.forward = torch.compile(compiled.forward)
        assert replaced_forwards(compiled) == {}
