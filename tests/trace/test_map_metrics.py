"""Metrics of maps against numpy and scipy, and what follows from their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from map_formulas import FORMULAS, of_maps

from smoothed_energy.trace import (
    TRACE_METRICS,
    frobenius_norm,
    gradient_entropy,
    laplacian_variance,
)

sizes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(3, 9), st.integers(3, 9))


def random_maps(shape, seed=0, layout="contiguous"):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return maps.to(memory_format=torch.channels_last) if layout == "tokens" else maps


@settings(max_examples=40)
@given(shape=sizes, seed=st.integers(0, 1000), layout=st.sampled_from(["contiguous", "tokens"]))
def test_each_is_the_mean_over_maps_of_its_formula(shape, seed, layout):
    maps = random_maps(shape, seed, layout)
    before = maps.clone()
    for name in FORMULAS:
        found = TRACE_METRICS[name].measure(maps)
        np.testing.assert_allclose(found.numpy(), of_maps(name, maps), rtol=1e-9, atol=1e-12)
    assert torch.equal(maps, before)


def test_float32_is_as_good_as_its_precision():
    maps = random_maps((2, 64, 16, 16)).float() * 30 + 100
    for name in FORMULAS:
        found = TRACE_METRICS[name].measure(maps)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), of_maps(name, maps), rtol=2e-3)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), factor=st.floats(1e-3, 1e3))
def test_how_each_changes_if_maps_are_scaled(seed, factor):
    maps = random_maps((2, 3, 6, 5), seed)
    scaled = factor * maps
    assert torch.allclose(frobenius_norm(scaled), factor * frobenius_norm(maps))
    assert torch.allclose(laplacian_variance(scaled), factor**2 * laplacian_variance(maps))
    # A magnitude on the border of two bins may fall into either.
    assert torch.allclose(gradient_entropy(scaled), gradient_entropy(maps), atol=0.2)


@settings(max_examples=20)
@given(slope=st.floats(-5, 5), other=st.floats(-5, 5), height=st.integers(3, 9))
def test_a_plane_has_no_laplacian_and_one_magnitude(slope, other, height):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(7), indexing="ij")
    plane = (slope * rows + other * columns).double()[None, None]
    assert laplacian_variance(plane).item() == pytest.approx(0, abs=1e-9)
    # All magnitudes are the greatest one; rounding puts some into the bin below it.
    assert gradient_entropy(plane).item() <= math.log(2) + 1e-12


def test_entropy_is_that_of_equal_shares_for_equally_many_magnitudes_in_each_bin():
    bins = 4
    steps = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) - 0.5
    # Columns that rise by `steps` one after the other, twice each, so that Sobel sees them.
    rises = steps.repeat_interleave(2)
    profile = torch.cat([torch.zeros(1), rises.cumsum(0)])
    magnitudes = (profile[2:] - profile[:-2]).abs().numpy()
    counts, _ = np.histogram(magnitudes, bins=bins, range=(0, magnitudes.max()))
    shares = counts / counts.sum()
    expected = -sum(p * math.log(p) for p in shares if p)
    maps = profile.expand(5, -1)[None, None]
    assert gradient_entropy(maps, bins=bins).item() == pytest.approx(expected)
    assert expected > 1


@pytest.mark.parametrize("shape", [(2, 3, 2, 5), (2, 3, 5, 2), (2, 3, 1, 1)])
def test_maps_too_small_for_a_kernel_have_no_such_number(shape):
    maps = random_maps(shape)
    assert laplacian_variance(maps).isnan().tolist() == [True, True]
    assert gradient_entropy(maps).isnan().tolist() == [True, True]
    assert frobenius_norm(maps).isfinite().all()


def test_constant_maps_have_entropy_0_and_no_nan():
    assert gradient_entropy(torch.full((1, 2, 4, 4), 3.0)).tolist() == [0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_gives_nan_in_its_own_sample(bad):
    maps = random_maps((2, 3, 5, 5)).float()
    maps[1, 2, 2, 2] = bad
    for name in FORMULAS:
        found = TRACE_METRICS[name].measure(maps)
        assert found[0].isfinite()
        assert not found[1].isfinite()
