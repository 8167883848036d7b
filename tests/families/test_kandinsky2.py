"""Guidance of Kandinsky 2.1 and 2.2."""

import dataclasses
import math

import pytest
from comparison import assert_guided_as_by_brute_force, run_of
from replaced_modules import assert_skipped_as_by_hand
from tiny_if import DOWN
from tiny_kandinsky2 import EMBEDDED, HINT, MORE, PROMPTS, combined, unet
from tiny_pipelines import TOLERANCE, difference

from smoothed_energy import (
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SlidingWindowGuidance,
    SmoothedEnergyGuidance,
    TokenPerturbationGuidance,
)
from smoothed_energy.families.layer_selection import LayerError
from smoothed_energy.intercept.attention_backends import AttentionBackendError

CASE = pytest.mark.parametrize("case", MORE, ids=lambda case: case.family)


@CASE
def test_as_by_brute_force(case):
    assert_guided_as_by_brute_force(case, cfg=True)


def test_infinite_sigma_without_cfg():
    assert_guided_as_by_brute_force(MORE[0], sigma=math.inf)


def test_skipped():
    assert_skipped_as_by_hand(MORE[0], DOWN, "attention", DOWN, "hidden_states")


def test_the_pipeline_that_makes_its_embeddings():
    given = {name: value for name, value in MORE[0].arguments.items() if name not in EMBEDDED}
    of_prompts = dataclasses.replace(MORE[0], arguments={**given, **PROMPTS}, pipeline=combined)
    guidance = SmoothedEnergyGuidance(layers=[DOWN])
    results = []
    for case in (MORE[0], of_prompts):
        pipe = case.pipeline()
        with guidance.attach(pipe):
            results.append(run_of(pipe, case, cfg=True)())
    assert difference(*results) < TOLERANCE


@pytest.mark.parametrize("cls", [SkipLayerGuidance, TokenPerturbationGuidance])
def test_attention_without_a_block(cls):
    with pytest.raises(LayerError, match="attention by itself"):
        cls(layers=[DOWN]).attach(unet())


def test_identity_of_a_map_that_is_not_square():
    pipe = MORE[0].pipeline()
    with (
        PerturbedAttentionGuidance(layers=[DOWN]).attach(pipe),
        pytest.raises(AttentionBackendError, match="has 24 queries and 56 keys"),
    ):
        run_of(pipe, MORE[0])()


def test_windows_of_a_controlled_picture_are_refused():
    case = next(case for case in MORE if HINT.items() <= case.arguments.items())
    pipe = case.pipeline()
    with SlidingWindowGuidance().attach(pipe), pytest.raises(ValueError, match="hint"):
        run_of(pipe, case)()
