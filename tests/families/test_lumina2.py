"""Guidance of Lumina 2."""

import dataclasses
import math
from contextlib import ExitStack

import pytest
import torch
from brute_force_attention import brute_force
from comparison import assert_guided_as_by_brute_force, run_of
from tiny_lumina2 import ARGUMENTS, CASES, GRID, NEGATIVE_LENGTHS, WIDTH, images, mask
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise

from smoothed_energy import GaussianBlur, GuidanceInterval, SmoothedEnergyGuidance
from smoothed_energy.denoisers.image_tokens import GridError
from smoothed_energy.families import Arguments, family_of
from smoothed_energy.families.layer_selection import select_layers

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)


@CASE
@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(case, sigma):
    assert_guided_as_by_brute_force(case, cfg=True, sigma=sigma)


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_without_cfg(sigma):
    assert_guided_as_by_brute_force(CASES[0], sigma=sigma)


@CASE
def test_unconditional_formulation(case):
    case = dataclasses.replace(case, images=images(NEGATIVE_LENGTHS))
    assert_guided_as_by_brute_force(case, cfg=True, formulation="unconditional")


def test_prompts_of_one_length():
    arguments = ARGUMENTS | {"prompt_attention_mask": mask(5, 5)}
    case = dataclasses.replace(CASES[0], arguments=arguments, images=images(5))
    assert_guided_as_by_brute_force(case, cfg=True)


def test_prompts_longer_than_the_negative_ones():
    # Brute force perturbs both calls, so both must hold the image where the prompts say.
    arguments = ARGUMENTS | {"prompt_attention_mask": mask(2, 4)}
    case = dataclasses.replace(CASES[0], arguments=arguments, images=images((2, 4)))
    assert_guided_as_by_brute_force(case, cfg=True)


@CASE
def test_cfg_ends_on_the_way(case):
    """The first of two steps has CFG, the second one has not."""
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=True, cfg_trunc_ratio=0.5)
    plain = run()
    with ExitStack() as stack:
        stack.enter_context(brute_force(pipe, case, cfg=True))

        def without_cfg(pipe, index, timestep, tensors):
            stack.close()
            if index == 0:
                stack.enter_context(brute_force(pipe, case, cfg=False))
            return tensors

        changes = {"cfg_trunc_ratio": 0.5, "callback_on_step_end": without_cfg}
        expected = run_of(pipe, case, cfg=True, **changes)()
    assert difference(plain, expected) > MARGIN * TOLERANCE
    guidance = SmoothedEnergyGuidance(blur=GaussianBlur(1.0), scale=3.0, layers=list(case.images))
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay) as attachment:
            error = difference(run(), expected)
        assert attachment.last_run.calls == 3
        assert attachment.last_run.guided_calls == 2
        assert error < TOLERANCE


def test_an_interval_of_cfg():
    """An interval that ends where the pipeline's own does gives the same."""
    case = CASES[1]
    pipe = case.pipeline()
    expected = run_of(pipe, case, cfg=True, cfg_trunc_ratio=0.5)()
    run = run_of(pipe, case, cfg=True)
    plain = run()
    assert difference(plain, expected) > MARGIN * TOLERANCE
    with GuidanceInterval("0:0.5").attach(pipe):
        assert difference(run(), expected) < TOLERANCE
        truncated = run_of(pipe, case, cfg=True, cfg_trunc_ratio=0.5)
        assert difference(truncated(), expected) < TOLERANCE


def test_layers_are_counted_in_both_stacks():
    layers = select_layers(CASES[0].pipeline().transformer, "all")
    assert [layer.code for layer in layers] == ["n0", "n1", "b0", "b1", "b2", "b3"]


def test_a_number_of_tokens_that_fits_no_prompt():
    transformer = CASES[0].pipeline().transformer
    given = {"hidden_states": torch.zeros(2, 4, 12, 8), "encoder_attention_mask": mask(5, 3)}
    arguments = Arguments(given.get)
    family = family_of(transformer)
    found = family.tokens(transformer, arguments, "layers.0.attn", 29)
    assert (found.grid, found.start) == (GRID, (5, 3))
    for layer, count in [("layers.0.attn", 28), ("noise_refiner.0.attn", 29)]:
        with pytest.raises(GridError, match=layer):
            _ = family.tokens(transformer, arguments, layer, count).grid


def test_the_time_runs_backwards():
    pipe = CASES[0].pipeline()
    run = run_of(pipe, CASES[0], num_inference_steps=4)
    with SmoothedEnergyGuidance(steps="0:0.25").attach(pipe) as attachment:
        run()
    assert attachment.last_run.calls == 4
    assert attachment.last_run.guided_calls == 1


@pytest.mark.parametrize("replay", [False, True])
def test_rows_of_one_batch(replay):
    """A loop of one's own may stack `[u, c]`; the conditional rows alone are shorter."""
    transformer = CASES[0].pipeline().transformer

    def predict(rows):
        given = {
            "hidden_states": noise(2, 4, 12, 8, seed=9).repeat(2, 1, 1, 1),
            "timestep": torch.full((4,), 0.3),
            "encoder_hidden_states": noise(4, 6, WIDTH, seed=4),
            "encoder_attention_mask": mask(6, 3, 4, 2),
        }
        with torch.no_grad():
            return transformer(**{name: value[rows] for name, value in given.items()}).sample

    both, alone = predict(slice(4)), predict(slice(2, 4))
    assert difference(both[2:], alone) < TOLERANCE
    guidance = SmoothedEnergyGuidance(blur=GaussianBlur(1.0), layers="b1,b2")
    with guidance.attach(transformer, replay=False) as attachment:
        attachment.step(0, 1)
        delta = predict(slice(2, 4)) - alone
    with guidance.attach(transformer, replay=replay) as attachment:
        attachment.step(0, 1, conditional_rows=2)
        guided = predict(slice(4))
    assert difference(both, guided) > MARGIN * TOLERANCE
    assert difference(guided, both + delta.repeat(2, 1, 1, 1)) < TOLERANCE
