"""Guidance of denoisers in which a cache of diffusers is enabled."""

import dataclasses
from contextlib import contextmanager, nullcontext

import brute_force_attention
import pytest
import tiny_cogvideox
import tiny_ltx
import tiny_wan
import torch
from brute_force_attention import brute_force
from comparison import run_of
from diffusers import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks import hooks
from tiny_pipelines import MARGIN, TOLERANCE, difference

from small_models import own_copy
from smoothed_energy import (
    GaussianBlur,
    GuidanceInterval,
    SelfAttentionGuidance,
    SkipLayerGuidance,
    SlidingWindowGuidance,
    SmoothedEnergyGuidance,
    Steps,
)

WAN, LTX, COGVIDEOX = tiny_wan.CASES[0], tiny_ltx.CASES[0], tiny_cogvideox.CASES[0]
GUIDANCE = SmoothedEnergyGuidance(blur=GaussianBlur(1.0), layers=list(WAN.images))
explicitly = brute_force_attention._explicitly


def pipeline_of(case, config):
    """A pipeline with a denoiser of its own, and the cache in it."""
    pipe = case.pipeline()
    pipe.transformer = own_copy(pipe.transformer)
    pipe.transformer.enable_cache(config)
    return pipe


def cached(case, threshold=0.2):
    return pipeline_of(case, FirstBlockCacheConfig(threshold=threshold))


def state_manager(denoiser):
    block = next(module for module in denoiser.modules() if isinstance(module, torch.nn.ModuleList))
    return block[0]._diffusers_hook.hooks["fbc_leader_block_hook"].state_manager


@contextmanager
def apart(denoiser, images, sigma, temporal):
    """Perturbed by hand, in a cache context of its own."""
    manager = state_manager(denoiser)
    if hasattr(hooks, "CacheContext"):
        context = manager.context
        manager.set_context(hooks.CacheContext(f"perturbed {context.name}"))
    else:  # contexts were names in older diffusers
        context = manager._current_context
        manager.set_context(f"perturbed {context}")
    try:
        with explicitly(denoiser, images, sigma, temporal):
            yield
    finally:
        manager.set_context(context)


@contextmanager
def counted(module):
    """A block in which the calls of a module are counted."""
    calls = []
    hook = module.register_forward_pre_hook(lambda module, args: calls.append(module))
    try:
        yield calls
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("case", "cfg", "threshold"),
    [(WAN, True, 0.2), (LTX, False, 0.2), (COGVIDEOX, False, 0.6)],
)
def test_passes_have_cached_blocks_of_their_own(monkeypatch, case, cfg, threshold):
    pipe = cached(case, threshold)
    run = run_of(pipe, case, cfg=cfg, num_inference_steps=6)
    plain = run()
    with brute_force(pipe, case, cfg=cfg):
        shared = run()
    monkeypatch.setattr(brute_force_attention, "_explicitly", apart)
    with brute_force(pipe, case, cfg=cfg):
        expected = run()
    guidance = dataclasses.replace(GUIDANCE, layers=list(case.images))
    last = pipe.transformer.get_submodule(list(case.images)[-1])
    with guidance.attach(pipe) as attachment, counted(last.to_q) as computed:
        error = difference(run(), expected)
    done = attachment.last_run
    print(f"\nerror {error:.1e}, effect {difference(plain, expected):.1e}")
    print(f"{len(computed)} of {done.calls + done.guided_calls} passes computed all blocks")
    assert error < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE
    # A cache that both passes share is another thing, and some blocks were not computed.
    assert difference(shared, expected) > MARGIN * TOLERANCE
    assert len(computed) < done.calls + done.guided_calls
    assert torch.equal(run(), plain)


def test_calls_without_cfg_have_cached_blocks_of_their_own():
    # The first step has CFG, the second one not, so neither has anything to take from the cache.
    one = {name: LTX.arguments[name][:1] for name in LTX.arguments if "prompt" in name}
    results = []
    for pipe in (LTX.pipeline(), cached(LTX, threshold=10.0)):
        with GuidanceInterval(Steps(0, 0.5)).attach(pipe):
            results.append(run_of(pipe, LTX, cfg=True, **one)())
    assert torch.equal(*results)


def test_windows_have_cached_blocks_of_their_own():
    # Whatever the cache finds alike it takes, so at the first step it must find nothing.
    guidance = SlidingWindowGuidance(scale=1.0, window=0.75)
    results = []
    for pipe in (WAN.pipeline(), cached(WAN, threshold=10.0)):
        with guidance.attach(pipe):
            results.append(run_of(pipe, WAN, cfg=True, num_inference_steps=1)())
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "config",
    [
        MagCacheConfig(mag_ratios=[1.0] * 2, num_inference_steps=2),
        TaylorSeerCacheConfig(cache_identifiers=[r"blocks\.\d+\.ffn"]),
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        ),
    ],
    ids=lambda config: type(config).__name__,
)
def test_other_caches_are_refused(config):
    pipe = pipeline_of(WAN, config)
    # CFG that is taken away gives the cache other calls, too.
    for guidance in (GUIDANCE, GuidanceInterval(Steps(0, 0.5))):
        with guidance.attach(pipe), pytest.raises(RuntimeError, match=r"expected FirstBlockCache"):
            run_of(pipe, WAN, cfg=True)()
    pipe.transformer.disable_cache()
    with GUIDANCE.attach(pipe):
        run_of(pipe, WAN, cfg=True)()


@pytest.mark.parametrize(
    "guidance", [SkipLayerGuidance(layers="b2"), SelfAttentionGuidance(layers="b2")]
)
def test_guidances_that_need_cached_blocks_are_refused(guidance):
    pipe = cached(WAN)
    with guidance.attach(pipe), pytest.raises(RuntimeError, match=r"a cache may skip.*blocks\.2"):
        run_of(pipe, WAN, cfg=True)()


def test_blocks_that_are_not_cached_may_be_skipped_in_part():
    pipe = cached(WAN)
    with SkipLayerGuidance(layers="b2", skip="attention").attach(pipe) as attachment:
        run_of(pipe, WAN, cfg=True)()
    assert attachment.last_run.guided_calls == 2


class TestBareDenoiser:
    def predict(self, denoiser, context=True):
        arguments = {
            "hidden_states": torch.ones(1, 4, 3, 8, 12),
            "timestep": torch.tensor([500.0]),
            "encoder_hidden_states": WAN.arguments["prompt_embeds"][:1],
            "return_dict": False,
        }
        with denoiser.cache_context("cond") if context else nullcontext(), torch.no_grad():
            return denoiser(**arguments)[0]

    def test_a_cache_that_is_enabled_while_guidance_is_attached_is_an_error(self):
        denoiser = own_copy(tiny_wan.transformer())
        with GUIDANCE.attach(denoiser):
            self.predict(denoiser, context=False)
            denoiser.enable_cache(FirstBlockCacheConfig())
            with pytest.raises(RuntimeError, match="attach it again"):
                self.predict(denoiser)
        with GUIDANCE.attach(denoiser):
            self.predict(denoiser)

    def test_other_images_begin_without_cached_blocks(self):
        denoiser = cached(WAN, threshold=10.0).transformer
        with GUIDANCE.attach(denoiser) as attachment:
            attachment.step(0, 2)
            with counted(denoiser.blocks[3].attn1) as computed:
                self.predict(denoiser)
                self.predict(denoiser)
                assert len(computed) == 2
                denoiser._reset_stateful_cache()
                attachment.step(0, 2)
                self.predict(denoiser)
                assert len(computed) == 4
