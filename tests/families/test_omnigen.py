"""Guidance of OmniGen."""

import math

import pytest
import torch
from brute_force_attention import _explicitly
from comparison import assert_guided_as_by_brute_force, run_of
from tiny_omnigen import CASES, IMAGES, PICTURES, transformer
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import SkipLayerGuidance, SmoothedEnergyGuidance
from smoothed_energy.families import family_of
from smoothed_energy.intercept.module_call import Rows

CASE = CASES[0]
LAYER = next(iter(IMAGES))


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_as_by_brute_force(sigma):
    assert_guided_as_by_brute_force(CASE, cfg=True, sigma=sigma)


def test_unconditional_formulation():
    assert_guided_as_by_brute_force(CASE, cfg=True, formulation="unconditional")


def by_hand(pipe, run, perturbed_pass, groups, scale=3.0):
    """A run in which all rows of a step become what they are, and the correction of c."""
    denoiser = pipe.transformer
    forward = denoiser.forward

    def guided(*args, **kwargs):
        (clean,) = forward(*args, **kwargs)
        with perturbed_pass():
            (perturbed,) = forward(*args, **kwargs)
        delta = scale * (clean - perturbed).chunk(groups)[0]
        return (clean + torch.cat([delta] * groups),)

    denoiser.forward = guided
    try:
        return run()
    finally:
        del denoiser.forward


def test_pictures_between_the_words():
    """Three branches, and pictures in some of their rows."""
    pipe = CASE.pipeline()
    run = run_of(pipe, CASE, **PICTURES)
    plain = run()
    expected = by_hand(pipe, run, lambda: _explicitly(pipe.transformer, IMAGES, 1.0, 0.0), 3)
    guidance = SmoothedEnergyGuidance(blur="gaussian:1", scale=3.0, layers=list(IMAGES))
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay):
            assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE
    assert torch.equal(run(), plain)


def test_rows_have_their_pictures():
    arguments = {
        "hidden_states": torch.zeros(6, 4, 12, 8),
        "input_img_latents": ["a", "b", "c", "d"],
        "input_image_sizes": {0: [[2, 6]], 1: [[3, 7], [7, 9]], 4: [[1, 5]]},
    }
    taken = family_of(transformer()).take_rows(arguments, Rows(1, 5, 6))
    assert taken["input_image_sizes"] == {0: [[3, 7], [7, 9]], 3: [[1, 5]]}
    assert taken["input_img_latents"] == ["b", "c", "d"]
    assert family_of(transformer()).take_rows(arguments, Rows(0, 6, 6)) == arguments


class _Replaced:
    """A module that gives its input back."""

    def __init__(self, module):
        self.module = module

    def __enter__(self):
        self.module.forward = lambda hidden_states, *args, **kwargs: hidden_states

    def __exit__(self, *_):
        del self.module.forward


@pytest.mark.parametrize(
    ("skip", "name"),
    [("block", "layers.1"), ("attention", LAYER), ("feed-forward", "layers.1.mlp")],
)
def test_skipped_modules(skip, name):
    pipe = CASE.pipeline()
    run = run_of(pipe, CASE)
    plain = run()
    module = pipe.transformer.get_submodule(name)
    expected = by_hand(pipe, run, lambda: _Replaced(module), 2)
    with SkipLayerGuidance(scale=3.0, layers=LAYER, skip=skip).attach(pipe):
        assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE
