"""Failures and odd uses leave nothing behind."""

import threading

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from modular_pipelines import is_patched, modular_sd3, modular_xl, run_sd3, run_xl
from tiny_pipelines import latents_of, size, xl, xl_prompts, xl_unet

from smoothed_energy import NonFiniteError, SmoothedEnergyGuidance
from smoothed_energy.modular import SmoothedEnergyGuider

TEXT = "seg; blur=gaussian:1; layers=mid"


class StopError(Exception):
    """What these tests raise."""


def ordinary():
    return latents_of(xl(), **xl_prompts(), **size(), guidance_scale=5.0)


def failure(pipe, **arguments):
    """The failure of a run; nothing of its traceback is kept."""
    try:
        run_xl(pipe, **arguments)
    except StopError:
        return True
    return False


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_denoiser_that_fails_is_left_as_it_was(call):
    expected, calls = ordinary()(), []

    def fail(module, args):
        calls.append(1)
        if len(calls) == call:
            raise StopError

    guider = SmoothedEnergyGuider(TEXT, guidance_scale=5.0)
    # In the middle block: the calls are those with the prompt, perturbed, and without the prompt.
    block = xl_unet().mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    hook = block.register_forward_pre_hook(fail)
    try:
        assert failure(modular_xl(guider))
    finally:
        hook.remove()
    assert not is_patched(xl_unet())
    assert torch.equal(ordinary()(), expected)


def test_a_block_that_fails_between_preparing_and_calling_leaves_nothing(monkeypatch):
    guider = SmoothedEnergyGuider(TEXT, guidance_scale=5.0)
    pipe = modular_xl(guider)
    expected, guided = ordinary()(), run_xl(pipe)
    prepare = SmoothedEnergyGuider.prepare_models

    def prepare_and_fail(self, denoiser):
        prepare(self, denoiser)
        assert is_patched(denoiser)
        raise StopError

    monkeypatch.setattr(SmoothedEnergyGuider, "prepare_models", prepare_and_fail)
    assert failure(pipe)
    monkeypatch.undo()
    assert not is_patched(xl_unet())
    assert torch.equal(ordinary()(), expected)
    assert torch.equal(run_xl(pipe), guided)


def prepared(guider, denoiser):
    """The guider and the batches of a step, the denoiser prepared for the first."""
    guider.set_state(step=0, num_inference_steps=2, timestep=torch.tensor(500.0))
    batches = guider.prepare_inputs({"prompt": (torch.zeros(1), torch.ones(1))})
    guider.prepare_models(denoiser)
    return batches


def test_batches_that_are_dropped_take_the_preparation_with_them():
    guider, denoiser = SmoothedEnergyGuider(TEXT), xl_unet()
    batches = prepared(guider, denoiser)
    assert is_patched(denoiser)
    del batches
    assert not is_patched(denoiser)


def test_another_step_ends_an_earlier_preparation():
    guider, denoiser = SmoothedEnergyGuider(TEXT), xl_unet()
    batches = prepared(guider, denoiser)
    guider.set_state(step=0, num_inference_steps=2, timestep=torch.tensor(500.0))
    assert not is_patched(denoiser)
    assert len(batches) == 3


def test_a_preparation_acts_in_its_own_thread_alone():
    expected, found = ordinary()(), []
    guider, denoiser = SmoothedEnergyGuider(TEXT), xl_unet()
    batches = prepared(guider, denoiser)
    thread = threading.Thread(target=lambda: found.append(ordinary()()))
    thread.start()
    thread.join()
    # And one that ends in another thread no longer acts in its own.
    other = threading.Thread(target=guider.cleanup_models, args=(denoiser,))
    other.start()
    other.join()
    with SmoothedEnergyGuidance(layers="mid", scale=0.0).attach(xl()):
        assert torch.equal(ordinary()(), expected)
    assert torch.equal(found[0], expected)
    assert len(batches) == 3


def test_guidance_attached_to_the_denoiser_and_a_guider_are_one_too_many():
    pipe = modular_xl(SmoothedEnergyGuider(TEXT))
    with (
        SmoothedEnergyGuidance(layers="mid").attach(xl_unet()),
        pytest.raises(RuntimeError, match="not both"),
    ):
        run_xl(pipe)


def test_a_block_that_does_not_call_the_denoiser_is_an_error():
    guider, denoiser = SmoothedEnergyGuider(TEXT), xl_unet()
    batches = prepared(guider, denoiser)
    for batch in batches:
        batch.noise_pred = torch.zeros(1, 4, 2, 2)
    with pytest.raises(RuntimeError, match="was not called for pred_perturbed_0"):
        guider(batches)
    with pytest.raises(ValueError, match="pred_cond, pred_uncond, pred_perturbed_0"):
        guider(batches[:2])


def test_a_call_that_fills_a_cache_is_an_error():
    guider, denoiser = SmoothedEnergyGuider(TEXT), xl_unet()
    batches = prepared(guider, denoiser)
    with pytest.raises(RuntimeError, match="kv_cache"):
        denoiser(torch.zeros(1, 4, 12, 8), 500, kv_cache=object())
    assert not is_patched(denoiser)
    assert len(batches) == 3


def test_batches_beyond_the_last_are_an_error():
    guider, denoiser = SmoothedEnergyGuider(TEXT), xl_unet()
    for _ in prepared(guider, denoiser)[1:]:
        guider.cleanup_models(denoiser)
        guider.prepare_models(denoiser)
    with pytest.raises(RuntimeError, match="batch 4 of 3"):
        guider.prepare_models(denoiser)


def test_the_state_of_the_last_run_does_not_change_what_the_next_one_needs():
    guider = SmoothedEnergyGuider(TEXT, guidance_scale=5.0, stop=0.5)
    run_sd3(modular_sd3(SmoothedEnergyGuider("pag; layers=b1", stop=0.5)))
    run_xl(modular_xl(guider))
    assert guider.num_conditions == 2
    plain = ClassifierFreeGuidance(guidance_scale=5.0, stop=0.5)
    run_xl(modular_xl(plain))
    assert plain.num_conditions == 1, "diffusers has mended this: say so in docs/modular.md"


def test_layers_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="m7"):
        run_xl(modular_xl(SmoothedEnergyGuider("seg; layers=m7")))


@pytest.mark.parametrize(
    ("text", "guidance_scale", "reason"),
    [
        (f"{TEXT}; scale=1e30", 5.0, r"not finite at step 0.*lower scale.*scale=1e\+30"),
        (TEXT, 1e30, r"not finite at step 0.*scale 1e\+30: expected lower scales"),
    ],
    ids=["the guidance's scale", "the scale of CFG"],
)
def test_what_is_not_a_number_is_an_error_after_the_last_step(text, guidance_scale, reason):
    pipe = modular_xl(SmoothedEnergyGuider(text, guidance_scale=guidance_scale))
    with pytest.raises(NonFiniteError, match=reason):
        run_xl(pipe)
    assert not is_patched(xl_unet())
