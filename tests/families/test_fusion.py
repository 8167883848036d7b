"""Fusion with CFG compares places, so it needs to know which axes of a prediction they are."""

import pytest
import tiny_cogvideox
import tiny_flux
import torch
from comparison import run_of
from methods_by_family import cases
from tiny_pipelines import TOLERANCE, difference

from smoothed_energy import PerturbedAttentionGuidance
from smoothed_energy.families import family_of

CASES = [case for case in cases() if case.cfg is not None]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_it_works_where_channels_come_first_and_is_refused_elsewhere(case):
    pipe = case.pipeline()
    denoiser = getattr(pipe, case.denoiser)
    shapes = set()
    hook = denoiser.register_forward_hook(
        lambda module, args, output: shapes.add(
            (output[0] if type(output) is tuple else output.sample).shape
        )
    )
    run = run_of(pipe, case, cfg=True, num_inference_steps=1)
    plain = run()
    hook.remove()
    shape = shapes.pop()
    # (B, T, C) is packed, and (B, F, C, H, W) is CogVideoX's alone.
    first = len(shape) > 3 and not case.family.startswith("CogVideoX")
    assert family_of(denoiser).channels_first == first
    guidance = PerturbedAttentionGuidance(layers=list(case.images), scale=9, combine="fuse")
    with guidance.attach(pipe):
        if first:
            assert difference(run(), plain) > TOLERANCE
        else:
            name = type(denoiser).__name__
            with pytest.raises(ValueError, match=rf"combine=fuse compares places.*a {name} has"):
                run()


@pytest.mark.parametrize("case", [tiny_flux.CASES[0], tiny_cogvideox.CASES[0]])
def test_a_bare_denoiser_without_places_is_refused_too(case):
    denoiser = getattr(case.pipeline(), case.denoiser)
    guidance = PerturbedAttentionGuidance(layers=list(case.images), combine="fuse")
    with guidance.attach(denoiser), pytest.raises(ValueError, match="compares places"):
        denoiser(hidden_states=torch.zeros(1, 2, 3))
