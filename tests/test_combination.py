"""Combinations of a correction with the prediction that it corrects."""

import math

import pytest
import torch
from brute_force_fusion import fused
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.denoisers.prediction import Predictions
from smoothed_energy.guidance.combinations import Projection, Rescale
from smoothed_energy.guidance.combine import Correction, total
from smoothed_energy.guidance.combine_text import as_combinations, combinations_text
from smoothed_energy.guidance.saliency_fusion import SaliencyFusion

units = st.floats(0, 1)
combinations = st.one_of(
    st.builds(Rescale, units, st.sampled_from(["full", "partial"])),
    st.builds(Projection, units),
    st.builds(SaliencyFusion, st.floats(0.1, 5) | st.floats(1e15, 1e25)),
)


def some(seed, *shape):
    shape = shape or (2, 4, 6, 5)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predictions(g=5.0):
    conditional = some(1)
    return Predictions(conditional, conditional, some(2), g)


def fusions(found):
    return sum(isinstance(one, SaliencyFusion) for one in found)


@given(st.lists(combinations, max_size=3).filter(lambda found: fusions(found) < 2))
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
    result = text + SaliencyFusion().apply(delta, clean)
    from_text, from_delta = torch.isclose(result, text), torch.isclose(result, delta)
    assert (from_text | from_delta).all()
    assert from_text.any()
    assert from_delta.any()


@pytest.mark.parametrize("sigma", [0.2, 1.0, 1.5])
@pytest.mark.parametrize("shape", [(2, 3, 9, 6), (1, 2, 3, 4, 7)], ids=["picture", "video"])
def test_fusion_is_its_formula(shape, sigma):
    clean = Predictions(some(1, *shape), some(1, *shape), some(2, *shape), 2.0)
    text = 2.0 * (clean.conditional - clean.unconditional)
    delta = 3 * some(3, *shape)
    expected = fused(delta, text, sigma)
    taken = (expected == delta).double().mean()
    assert 0.2 < taken < 0.8
    found = text + SaliencyFusion(sigma).apply(delta, clean)
    torch.testing.assert_close(found, expected)
    if sigma == 1:
        torch.testing.assert_close(text + SaliencyFusion().apply(delta, clean), expected)


def corrections(*texts, g=2.0):
    conditional, unconditional = some(1), some(2)
    clean = Predictions(conditional, conditional, unconditional, g)
    return [
        Correction(4 * some(10 + number), as_combinations(text), clean)
        for number, text in enumerate(texts)
    ]


def test_corrections_that_are_not_fused_add_up():
    first, second = corrections("", "project")
    expected = first.delta + Projection().apply(second.delta, second.predictions)
    torch.testing.assert_close(total([first, second]), expected)
    assert total([first]) is first.delta


@pytest.mark.parametrize("third", ["", "rescale:0.7:partial"])
def test_several_fused_corrections_are_fused_once_as_their_sum(third):
    first, second, other = corrections("fuse:1.5", "project:0.5+fuse:1.5", third)
    clean = first.predictions
    text = clean.text_guidance
    ours = first.delta + Projection(0.5).apply(second.delta, clean)
    added = other.delta
    if third:
        added = Rescale(0.7, "partial").apply(added, clean)
    expected = fused(ours, text, 1.5) + added
    torch.testing.assert_close(text + total([first, other, second]), expected)
    # One after the other would take back the text's guidance twice.
    apart = total([first]) + total([second]) + added
    assert (text + apart - expected).abs().max() > 1


@pytest.mark.parametrize(
    "texts", [("fuse", "fuse:2"), ("fuse+project", "fuse+project"), ("fuse", "fuse+project")]
)
def test_corrections_that_are_fused_differently_are_refused(texts):
    with pytest.raises(ValueError, match=r"combine='fuse.*', 'fuse.*the same fuse as the last"):
        total(corrections(*texts))


@pytest.mark.parametrize("shape", [(1, 24, 16), (2, 16)])
def test_fusion_of_what_has_no_places_is_refused(shape):
    clean = Predictions(some(1, *shape), some(1, *shape), some(2, *shape), 2.0)
    with pytest.raises(
        ValueError, match=r"fuse:2.0 compares places.*\(B, C, H, W\).* the shape \("
    ):
        SaliencyFusion(2).apply(some(3, *shape), clean)


def test_fusion_without_cfg_changes_nothing():
    delta = some(0)
    assert SaliencyFusion().apply(delta, Predictions(some(1), some(1))) is delta


def test_what_needs_the_scale_of_cfg_says_so():
    unknown = Predictions(some(1), some(1), some(2))
    for combination in (Rescale(0.5), SaliencyFusion()):
        with pytest.raises(ValueError, match=r"need the scale.*InstructPix2Pix.*project or no"):
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
        lambda: as_combinations("fuse+project+fuse:2"),
        lambda: as_combinations(["fuse", SaliencyFusion(2)]),
    ],
)
def test_what_is_no_combination_is_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()
