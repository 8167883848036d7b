"""Guidance of CogVideoX."""

import dataclasses
import math

import pytest
import torch
from comparison import assert_guided_as_by_brute_force, run_of
from tiny_cogvideox import CASES, TEXT, WIDTH, transformer
from tiny_pipelines import noise

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.families import family_of

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)


@CASE
@pytest.mark.parametrize("cfg", [False, True])
def test_space_and_time(case, cfg):
    assert_guided_as_by_brute_force(case, cfg=cfg, sigma=1.0, temporal=1.0)


@pytest.mark.parametrize(
    ("sigma", "temporal"), [(1.0, None), (0.0, 1.0), (math.inf, None), (math.inf, math.inf)]
)
def test_as_by_brute_force(sigma, temporal):
    assert_guided_as_by_brute_force(CASES[0], cfg=True, sigma=sigma, temporal=temporal)


@CASE
def test_unconditional_formulation(case):
    assert_guided_as_by_brute_force(case, cfg=True, formulation="unconditional")


def dynamic_scale(timestep, steps, scale=5.0):
    """What the pipelines compute."""
    return 1 + scale * (1 - math.cos(math.pi * ((steps - timestep) / steps) ** 5.0)) / 2


def test_dynamic_cfg():
    def pipeline():
        pipe = CASES[0].pipeline()
        # The only step of one is then at the timestep 999.
        pipe.scheduler = pipe.scheduler.from_config(
            pipe.scheduler.config, timestep_spacing="trailing"
        )
        return pipe

    case = dataclasses.replace(CASES[0], pipeline=pipeline, scale=dynamic_scale(999, 1))
    assert_guided_as_by_brute_force(case, cfg=True, use_dynamic_cfg=True, num_inference_steps=1)


def test_the_scale_of_dynamic_cfg_is_that_of_the_step(monkeypatch):
    pipe = CASES[0].pipeline()
    family = family_of(pipe.transformer)
    layout, known, used = family.layout, [], []

    def record(denoiser, setting, step):
        known.append(layout(denoiser, setting, step).cfg_scale)
        return layout(denoiser, setting, step)

    def after_step(pipe, index, timestep, tensors):
        used.append(pipe.guidance_scale)
        return tensors

    monkeypatch.setattr(family, "layout", record)
    run = run_of(
        pipe,
        CASES[0],
        cfg=True,
        use_dynamic_cfg=True,
        callback_on_step_end=after_step,
        num_inference_steps=3,
    )
    with SmoothedEnergyGuidance(layers="mid").attach(pipe):
        run()
    assert known == used
    assert len(set(known)) == 3


def test_differences_are_used_again_where_an_image_is_concatenated():
    case = CASES[-1]
    pipe = case.pipeline()
    with SmoothedEnergyGuidance(layers="mid", every=2).attach(pipe) as attachment:
        run_of(pipe, case, cfg=True)()
    assert attachment.last_run.reused_calls == 1


def test_rotary_embeddings_are_not_rows():
    # Two tokens, and two rows: a rotary embedding must not be taken apart.
    denoiser = transformer(use_rotary_positional_embeddings=True)
    rows = {
        "hidden_states": noise(2, 1, 4, 2, 4),
        "encoder_hidden_states": noise(2, TEXT, WIDTH, seed=1),
        "timestep": torch.tensor([500, 500]),
        "image_rotary_emb": (noise(2, 16, seed=2), noise(2, 16, seed=3)),
        "return_dict": False,
    }
    last = {
        name: value[1:] if isinstance(value, torch.Tensor) else value
        for name, value in rows.items()
    }
    with torch.no_grad():
        plain, plain_last = denoiser(**rows)[0], denoiser(**last)[0]
        with SmoothedEnergyGuidance(layers="mid").attach(denoiser) as attachment:
            expected = denoiser(**last)[0] - plain_last
            attachment.step(0, 1, conditional_rows=1)
            delta = denoiser(**rows)[0] - plain
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(delta, expected.expand_as(delta), rtol=0, atol=1e-5)
