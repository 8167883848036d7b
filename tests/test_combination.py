"""Combinations of a correction with the prediction that it corrects."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.combination import (
    Predictions,
    Projection,
    Rescale,
    SaliencyFusion,
    as_combinations,
    combinations_text,
)

units = st.floats(0, 1)
combinations = st.one_of(
    st.builds(Rescale, units, st.sampled_from(["full", "partial"])),
    st.builds(Projection, units),
    st.builds(SaliencyFusion, st.floats(0.1, 5)),
)


def some(seed, *shape):
    shape = shape or (2, 4, 6, 5)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predictions(g=5.0):
    conditional = some(1)
    return Predictions(conditional, conditional, some(2), g)


@given(st.lists(combinations, max_size=3))
def test_texts_are_read_back(found):
    assert as_combinations(combinations_text(found)) == tuple(found)
    assert as_combinations(found) == tuple(found)


@given(st.integers(0, 99), units)
def test_a_projection_leaves_the_orthogonal_part_alone(seed, parallel):
    delta, clean = some(seed), predictions()
    changed = Projection(parallel).apply(delta, clean)
    inner = (changed * clean.clean).flatten(1).sum(1)
    expected = parallel * (delta * clean.clean).flatten(1).sum(1)
    torch.testing.assert_close(inner, expected, rtol=1e-9, atol=1e-9)
    assert (changed.flatten(1).norm(dim=1) <= delta.flatten(1).norm(dim=1) * (1 + 1e-9)).all()


def test_a_prediction_of_zeros_has_no_direction():
    zero = torch.zeros(1, 2, 3, 3)
    delta = some(0, 1, 2, 3, 3).float()
    assert torch.equal(Projection().apply(delta, Predictions(zero, zero)), delta)


def test_rescaling_by_nothing_changes_nothing():
    delta = some(0)
    assert torch.equal(Rescale(0).apply(delta, predictions()), delta)


def test_partial_rescaling_of_everything_has_the_spread_of_the_correction():
    delta, clean = some(0), predictions()
    changed = Rescale(1, "partial").apply(delta, clean)
    factor = clean.conditional.flatten(1).std(1) / (clean.conditional + delta).flatten(1).std(1)
    torch.testing.assert_close(changed, delta * factor[:, None, None, None], rtol=1e-6, atol=0)


def test_fusion_takes_one_guidance_or_the_other_everywhere():
    clean = predictions(3.0)
    text = 3.0 * (clean.conditional - clean.unconditional)
    delta = some(0) * 4
    total = text + SaliencyFusion().apply(delta, clean)
    from_text, from_delta = torch.isclose(total, text), torch.isclose(total, delta)
    assert (from_text | from_delta).all()
    assert from_text.any()
    assert from_delta.any()


def test_fusion_is_by_the_softmax_over_space_of_the_blurred_magnitude():
    # One channel, a blur so narrow that it is none: the formula by hand.
    clean = Predictions(some(1, 1, 1, 2, 2), some(1, 1, 1, 2, 2), some(2, 1, 1, 2, 2), 2.0)
    text = 2.0 * (clean.conditional - clean.unconditional)
    delta = some(3, 1, 1, 2, 2)
    stronger = delta.abs().flatten().softmax(0) > text.abs().flatten().softmax(0)
    expected = torch.where(stronger, delta.flatten(), text.flatten()).reshape(delta.shape)
    torch.testing.assert_close(text + SaliencyFusion(1e-3).apply(delta, clean), expected)


def test_fusion_without_cfg_changes_nothing():
    delta = some(0)
    assert SaliencyFusion().apply(delta, Predictions(some(1), some(1))) is delta


def test_what_needs_the_scale_of_cfg_says_so():
    unknown = Predictions(some(1), some(1), some(2))
    for combination in (Rescale(0.5), SaliencyFusion()):
        with pytest.raises(ValueError, match=r"needs the scale of classifier-free guidance"):
            combination.apply(some(0), unknown)
    assert Rescale(0.5, "partial").apply(some(0), unknown).isfinite().all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rescale(1.5),
        lambda: Rescale(0.5, "whole"),
        lambda: Projection(-0.1),
        lambda: Projection(math.nan),
        lambda: SaliencyFusion(0),
        lambda: SaliencyFusion(True),
        lambda: as_combinations("rescale"),
        lambda: as_combinations("rescale:much"),
        lambda: as_combinations("project:1:2"),
        lambda: as_combinations("mix:0.5"),
        lambda: as_combinations("project++fuse"),
    ],
)
def test_what_is_no_combination_is_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()
