"""Passes of several guidances at one step, none of which may disturb another."""

import contextlib
import pickle

import pytest
import tiny_wan
import torch
from diffusers import FirstBlockCacheConfig, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from small_models import inputs, own_copy, small_pipeline, small_unet, unet_inputs
from smoothed_energy import (
    Autoguidance,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    StepPosition,
)
from smoothed_energy.denoisers.prediction import OutputKind
from smoothed_energy.engine.participant import Participant
from smoothed_energy.engine.run import GuidedRun
from smoothed_energy.families.unet import UNet
from smoothed_energy.integrations.loop_step import LoopStep
from smoothed_energy.intercept.module_call import ModuleCall
from smoothed_energy.modular import SmoothedEnergyGuider

EFFECT = 1e-2


def adapted():
    """Arguments with a T2I-Adapter's residuals, which the U-Net takes off the list it is given."""
    generator = torch.Generator().manual_seed(7)
    sizes = (16, 32)
    residuals = [torch.randn(2, size, 8, 8, generator=generator) for size in sizes]
    return unet_inputs() | {"down_intrablock_additional_residuals": residuals}


def predict(unet, *guidances, replay=True, rows=1, arguments=adapted):
    with contextlib.ExitStack() as stack:
        for guidance in guidances:
            attachment = stack.enter_context(guidance.attach(unet, replay=replay))
            attachment.step(0, 10, conditional_rows=rows)
        return unet(**arguments()).sample.clone()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_one_pass_changes_in_place_is_not_replayed_by_the_next(mode):
    unet = small_unet()
    guidances = [
        SmoothedEnergyGuidance(layers="mid"),
        PerturbedAttentionGuidance(layers="mid", scale=2.0),
    ]
    with mode():
        replayed, computed = (predict(unet, *guidances, replay=on) for on in (True, False))
        plain = predict(unet)
    torch.testing.assert_close(replayed, computed, rtol=0, atol=1e-4)
    assert (plain - computed).abs().max() > EFFECT


def test_a_weaker_denoiser_consumes_lists_of_its_own():
    unet, weak = small_unet(), small_unet()
    with torch.no_grad():
        for parameter in weak.parameters():
            parameter *= 0.97
        auto = Autoguidance(weak=weak, scale=1.0)
        other = SmoothedEnergyGuidance(layers="mid")
        plain = predict(unet, rows=None)
        alone = [predict(unet, guidance, rows=2) - plain for guidance in (auto, other)]
        both = predict(unet, auto, other, rows=2) - plain
    torch.testing.assert_close(both, sum(alone), rtol=0, atol=1e-4)
    assert all(effect.abs().max() > EFFECT for effect in alone)


@pytest.mark.parametrize("others", [["m0"], ["m0", "u0"]], ids=["same layers", "another layer"])
def test_two_guidances_observe_one_layer_whatever_its_processor(others):
    results = []
    for processor in (AttnProcessor2_0, AttnProcessor):
        pipe = small_pipeline()
        pipe.unet.set_attn_processor(processor())
        plain = pipe(**inputs()).images
        first = SelfAttentionGuidance(layers=others, scale=3.0)
        second = SelfAttentionGuidance(layers="m0", threshold=1.1, scale=1.0)
        with first.attach(pipe) as one, second.attach(pipe) as other:
            results.append(pipe(**inputs()).images)
        assert len(one.last_run.layers) == len(others)
        assert len(other.last_run.layers) == 1
        assert (results[-1] - plain).abs().max() > EFFECT
    scale = results[0].abs().max()
    assert (results[0] - results[1]).abs().max() < 1e-4 * scale


def test_a_cache_that_is_enabled_after_attaching_is_kept_apart():
    case = tiny_wan.CASES[0]
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", layers=list(case.images))

    def steps(enabled):
        denoiser = own_copy(tiny_wan.transformer())
        if enabled == "before":
            denoiser.enable_cache(FirstBlockCacheConfig(threshold=0.2))
        found = []
        with guidance.attach(denoiser) as attachment, torch.no_grad():
            if enabled == "after":
                denoiser.enable_cache(FirstBlockCacheConfig(threshold=0.2))
            for index in range(3):
                attachment.step(index, 10)
                with denoiser.cache_context("cond"):
                    output = denoiser(
                        hidden_states=torch.full((1, 4, 3, 8, 12), 1 + 0.01 * index),
                        timestep=torch.tensor([500.0]),
                        encoder_hidden_states=case.arguments["prompt_embeds"][:1],
                        return_dict=False,
                    )
                found.append(output[0])
        return torch.stack(found)

    assert torch.equal(steps("before"), steps("after"))


def test_weaker_denoisers_are_loaded_once_a_run(tmp_path, monkeypatch):
    pipe = small_pipeline()
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        small_unet().save_pretrained(folder)
    loaded, load = [], UNet2DConditionModel.from_pretrained.__func__

    def counted(cls, place, **options):
        loaded.append(place)
        return load(cls, place, **options)

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", classmethod(counted))
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(Autoguidance(weak=folder, scale=1.0).attach(pipe))
        assert loaded == []
        pipe(**inputs())
        assert sorted(loaded) == sorted(map(str, folders))


def test_skipped_blocks_ask_for_the_layers_once_a_run(monkeypatch):
    pipe, asked, layers = small_pipeline(), [], UNet.layers

    def counted(self, denoiser):
        asked.append(denoiser)
        return layers(self, denoiser)

    monkeypatch.setattr(UNet, "layers", counted)
    with SkipLayerGuidance(layers="up").attach(pipe):
        asked.clear()
        pipe(**inputs())
    assert len(asked) == 1


def test_a_call_that_was_replaced_after_the_first_attachment_is_made(pipe, monkeypatch):
    cls, seen = type(pipe), []
    original = cls.__call__
    with SmoothedEnergyGuidance().attach(pipe):
        pipe(**inputs())

    def noting(self, *args, **kwargs):
        seen.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, "__call__", noting)
    with SmoothedEnergyGuidance().attach(pipe):
        pipe(**inputs())
    assert seen == [pipe]


def test_a_guider_can_be_pickled():
    guider = SmoothedEnergyGuider("seg; scale=2; layers=mid")
    assert pickle.loads(pickle.dumps(guider)).guidances == guider.guidances


def test_other_images_begin_in_all_denoisers_of_a_run():
    """The first denoiser acts at the first step alone, so its own steps never go back."""
    first, second = small_unet(), small_unet()
    run = GuidedRun(first, second)
    member = Participant(SmoothedEnergyGuidance(layers="mid", every=2))

    def call(denoiser, index):
        step = LoopStep(StepPosition(index, 4), 1, None, None, OutputKind(), None)
        before = run.summary(member).reused_calls
        run.call(ModuleCall(denoiser, denoiser.forward, (), unet_inputs()), (member,), step)
        return run.summary(member).reused_calls > before

    steps = [first, second, second, second]
    reused = [[call(steps[index], index) for index in range(4)] for _ in range(2)]
    assert reused == [[False, False, True, False]] * 2


def test_arguments_are_those_of_the_forward_function_that_a_class_has_now(monkeypatch):
    unet, given = small_unet(), unet_inputs()
    sample, timestep = given.pop("sample"), given.pop("timestep")
    guidance = SmoothedEnergyGuidance(layers="mid")
    with guidance.attach(unet), torch.no_grad():
        expected = unet(sample, timestep, **given).sample
    original = UNet2DConditionModel.forward

    def swapped(self, timestep, sample, encoder_hidden_states, **kwargs):
        return original(self, sample, timestep, encoder_hidden_states, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", swapped)
    with guidance.attach(unet), torch.no_grad():
        assert torch.equal(unet(timestep, sample, **given).sample, expected)
