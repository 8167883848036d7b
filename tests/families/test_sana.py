"""Guidance of Sana: everything that needs no softmax attention."""

import copy
import dataclasses

import pytest
import torch
from comparison import run_of
from diffusers import SanaPAGPipeline, SanaPipeline
from replaced_modules import assert_shuffled_as_by_hand, assert_skipped_as_by_hand
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise
from tiny_sana import CASES, GRID, SPRINT, sana, transformer

from smoothed_energy import (
    Autoguidance,
    EntropyRectifyingGuidance,
    MomentumGuidance,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SelfGuidance,
    SkipLayerGuidance,
    SlidingWindowGuidance,
    SmoothedEnergyGuidance,
    StochasticSelfGuidance,
    TimeStepGuidance,
    TokenPerturbationGuidance,
)
from smoothed_energy.families.layer_selection import LayerError, self_attention_layers
from smoothed_energy.guidance.perturbation import ValuesOnly
from smoothed_energy.guidance.result_guidance import ResultGuidance
from smoothed_energy.guidance.softmax import softmax_free
from smoothed_energy.methods import METHODS

CASE = CASES[0]
LAYER = next(iter(CASE.images))
BLOCK = LAYER.rpartition(".")[0]
CFG = pytest.mark.parametrize("cfg", [False, True])


@pytest.mark.parametrize(
    "guidance",
    [
        SmoothedEnergyGuidance(),
        SmoothedEnergyGuidance(blur="gaussian:1", on="key"),
        EntropyRectifyingGuidance(),
        SelfAttentionGuidance(layers="mid"),
    ],
    ids=["queries", "keys", "temperature", "sag"],
)
@pytest.mark.parametrize("bare", [False, True])
def test_methods_of_softmax_attention_are_refused(guidance, bare):
    pipe = sana()
    with pytest.raises(LayerError, match=r"linear attention, without softmax.*pag, slg, s2, tpg"):
        guidance.attach(pipe.transformer if bare else pipe)
    assert type(pipe) is SanaPipeline


def test_layers_are_known_to_be_linear():
    assert [layer.softmax for layer in self_attention_layers(transformer())] == [False] * 4


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["transformer_blocks.1"], "b1"),
        (["transformer_blocks.(0|3)"], "b0,b3"),
        (["transformer_blocks"], "all"),
    ],
)
@CFG
def test_perturbed_attention_as_in_diffusers(theirs, ours, cfg):
    model = copy.deepcopy(transformer())
    reference = sana(SanaPAGPipeline, model=model, pag_applied_layers=theirs)
    # Without an autoencoder the two pipelines disagree about how much it shrinks.
    start = {"latents": noise(2, 4, *GRID)}
    expected = run_of(reference, CASE, cfg=cfg, pag_scale=3.0, **start)()
    pipe = CASE.pipeline()
    run = run_of(pipe, CASE, cfg=cfg, **start)
    plain = run()
    for replay in (True, False):
        with PerturbedAttentionGuidance(scale=3.0, layers=ours).attach(pipe, replay=replay) as done:
            error = difference(run(), expected)
        assert error < TOLERANCE
        assert done.last_run.guided_calls == 2
    effect = difference(plain, expected)
    print(f"\nerror {error:.1e}, effect {effect:.1e}")
    assert effect > MARGIN * TOLERANCE


def test_perturbed_attention_of_the_unconditional_prediction():
    pipe = CASE.pipeline()
    run = run_of(pipe, CASE, cfg=True)
    guidance = PerturbedAttentionGuidance(scale=3.0, layers="b1", formulation="unconditional")
    results = []
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay):
            results.append(run())
    assert difference(results[0], results[1]) < TOLERANCE
    with PerturbedAttentionGuidance(scale=3.0, layers="b1").attach(pipe):
        assert difference(run(), results[0]) > MARGIN * TOLERANCE


def test_values_that_half_precision_cannot_hold_are_clipped():
    layer = self_attention_layers(copy.deepcopy(transformer()))[0]
    module = layer.module.half()
    with torch.no_grad():
        module.to_out[0].bias += 6e4
        module.to_v.weight *= 1e3
    call = type("Call", (), {"module": module, "input": lambda self: torch.ones(1, 2, 32).half()})
    assert ValuesOnly().run(call()).isfinite().all()


@pytest.mark.parametrize("case", [CASE, SPRINT], ids=lambda case: case.family)
def test_skipped_blocks(case):
    assert_skipped_as_by_hand(case, LAYER, "block", BLOCK, "hidden_states")


def test_skipped_modules():
    assert_skipped_as_by_hand(CASE, LAYER, "attention", LAYER, "hidden_states")
    assert_skipped_as_by_hand(CASE, LAYER, "feed-forward", f"{BLOCK}.ff", "hidden_states")


def test_shuffled_tokens():
    assert_shuffled_as_by_hand(CASE, LAYER)


def test_the_methods_that_are_named_work():
    weaker = copy.deepcopy(transformer())
    with torch.no_grad():
        for parameter in weaker.parameters():
            parameter *= 0.9
    guidances = [
        PerturbedAttentionGuidance(layers="b1"),
        SkipLayerGuidance(layers="b1"),
        StochasticSelfGuidance(),
        TokenPerturbationGuidance(layers="b1"),
        SlidingWindowGuidance(scale=3.0),
        TimeStepGuidance(),
        SelfGuidance(scale=30.0, shift=300),
        Autoguidance(weak=weaker),
        MomentumGuidance(),
    ]
    assert [guidance.method for guidance in guidances] == softmax_free
    others = {"seg", "sag", "erg", "interval", "nag", "pladis"}
    others |= {name for name, cls in METHODS.items() if issubclass(cls, ResultGuidance)}
    assert set(METHODS) == {guidance.method for guidance in guidances} | others
    pipe = CASE.pipeline()
    run = run_of(pipe, CASE, cfg=True)
    plain = run()
    for guidance in guidances:
        with guidance.attach(pipe):
            assert difference(run(), plain) > MARGIN * TOLERANCE


def test_steps_are_found_whatever_the_scale_of_time():
    pipe = sana(model=transformer(timestep_scale=0.001))
    guidance = PerturbedAttentionGuidance(layers="b1", steps="0:0.5")
    with guidance.attach(pipe) as attachment:
        run_of(pipe, CASES[0], num_inference_steps=4)()
    assert attachment.last_run.guided_calls == 2


def test_sprint_takes_one_prompt():
    arguments = {
        name: value[:1] if isinstance(value, torch.Tensor) else value
        for name, value in SPRINT.arguments.items()
    }
    assert_skipped_as_by_hand(
        dataclasses.replace(SPRINT, arguments=arguments), LAYER, "block", BLOCK, "hidden_states"
    )


@pytest.mark.parametrize(("steps", "calls"), [("0:0.2", 1), ("0.2:1", 3), ("every:2", 2)])
def test_steps_of_sprint_are_found(steps, calls):
    pipe = SPRINT.pipeline()
    guidance = PerturbedAttentionGuidance(layers="b1", steps=steps)
    with guidance.attach(pipe) as attachment:
        run_of(pipe, SPRINT, num_inference_steps=4, intermediate_timesteps=None)()
    assert attachment.last_run.guided_calls == calls
