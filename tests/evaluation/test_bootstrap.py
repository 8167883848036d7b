"""Intervals over seeds."""

import numpy as np
import pytest
import torch

from smoothed_energy.evaluation import (
    METRICS,
    FeatureSet,
    Resampling,
    difference,
    interval,
    paired_interval,
)


def normal(count, seed, size=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def mean_of(x):
    return lambda indices: float(x[indices].mean())


def test_of_a_mean_it_is_the_one_of_the_normal_distribution():
    for count in (400, 401, 5):
        x = normal(count, 1) * 3 + 5
        found = interval(mean_of(x), count, Resampling(4000))
        error = 1.96 * float(x.std()) / count**0.5
        assert found.value == pytest.approx(float(x.mean()))
        if count > 5:
            assert found.high - found.value == pytest.approx(error, rel=0.08)
            assert found.value - found.low == pytest.approx(error, rel=0.08)
        assert found.low < found.value < found.high


def test_a_level_is_the_share_of_intervals_that_hold_the_number():
    for level in (0.5, 0.9):
        hits = []
        for seed in range(300):
            found = interval(mean_of(normal(50, seed)), 50, Resampling(60, level=level))
            hits.append(found.low <= 0 <= found.high)
        assert np.mean(hits) == pytest.approx(level, abs=0.07)


def test_a_bias_of_fewer_samples_does_not_move_it():
    x = normal(100, 2)
    plain = interval(mean_of(x), 100)
    biased = interval(lambda indices: float(x[indices].mean()) + 50 / len(indices), 100)
    assert biased.value == pytest.approx(plain.value + 0.5)
    assert biased.low == pytest.approx(plain.low + 0.5)
    assert biased.high == pytest.approx(plain.high + 0.5)


def test_halves_have_no_sample_twice_and_are_stated_by_their_seed():
    resampling = Resampling(30, seed=4)
    halves = list(resampling.halves(11))
    assert len(halves) == 30
    assert {len(half) for half in halves} == {len(set(half.tolist())) for half in halves} == {5}
    counts = torch.bincount(torch.cat(halves), minlength=11)
    assert len(counts) == 11
    assert counts.min() > 0
    again = list(Resampling(30, seed=4).halves(11))
    other = list(Resampling(30, seed=5).halves(11))
    assert all(torch.equal(a, b) for a, b in zip(halves, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(halves, other, strict=True))
    assert "30 random halves of the seeds, seed 4" in resampling.text


def test_what_a_seed_does_to_both_rows_cancels():
    common, own = normal(300, 3) * 10, normal(300, 4) * 0.1
    first, second = common + 0.5 + own, common
    paired = paired_interval(mean_of(first), mean_of(second), 300)
    assert paired.value == pytest.approx(0.5, abs=0.03)
    assert paired.high - paired.low == pytest.approx(2 * 1.96 * 0.1 / 300**0.5, rel=0.25)
    assert paired.excludes_zero
    apart = paired_interval(mean_of(first), mean_of(second.flip(0)), 300)
    assert apart.high - apart.low > 20 * (paired.high - paired.low)
    assert not apart.excludes_zero


@pytest.mark.parametrize("size", [4, 80])
def test_a_difference_of_frechet_distances_is_that_of_rows_of_the_same_seeds(size):
    real, noise = normal(200, 5, size), normal(60, 6, size)
    first, second, against = (FeatureSet(x, "net", "ab") for x in (noise + 0.6, noise + 0.3, real))
    metric = METRICS["frechet"]
    expected = metric(first.features, real) - metric(second.features, real)
    found = difference(first, second, against, "frechet", Resampling(50))
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.excludes_zero
    by_statistics = difference(first, second, against.statistics(), "frechet", Resampling(50))
    assert by_statistics.low == pytest.approx(found.low, rel=1e-6)
    same = difference(first, first, against, "frechet", Resampling(50))
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_frechet_intervals_hold_the_expected_number_of_this_count():
    # In more dimensions than samples, where a percentile of halves would always lie above it.
    real = normal(300, 0, 40)
    numbers, found = [], []
    for seed in range(40):
        subsets = METRICS["frechet"].subsets(normal(30, seed + 1, 40) * 0.9, real)
        found.append(interval(subsets, 30, Resampling(40)))
        numbers.append(found[-1].value)
    expected = np.mean(numbers)
    assert np.mean([ends.low <= expected <= ends.high for ends in found]) >= 0.85
    widths = np.mean([ends.high - ends.low for ends in found])
    assert 0.9 < widths / (2 * 1.96 * np.std(numbers)) < 1.7


def test_progress_is_told_of_each_half():
    steps = []
    interval(mean_of(normal(9, 0)), 9, Resampling(25), progress=steps.append)
    assert steps == [1] * 25


def test_useless_settings_are_refused():
    with pytest.raises(ValueError, match="count=5: expected an integer >= 20"):
        Resampling(5)
    with pytest.raises(ValueError, match="level=1: expected a number between 0 and 1"):
        Resampling(level=1)
    with pytest.raises(ValueError, match="3 samples; an interval over seeds needs at least 4"):
        interval(mean_of(normal(3, 0)), 3)
    rows = [FeatureSet(normal(count, 0, 3)) for count in (9, 10)]
    with pytest.raises(ValueError, match="rows of 9 and 10 samples"):
        difference(*rows, rows[0], "frechet")
    with pytest.raises(ValueError, match="samples have the extractor 'a' and real images ''"):
        difference(FeatureSet(normal(9, 0, 3), "a"), rows[0], rows[0], "frechet")


@pytest.mark.parametrize("samples", [4, 6, 16])
def test_intervals_of_few_samples_of_a_mean_are_wide_enough(samples):
    """Of normal numbers with mean 0, the interval should hold 0 in 95 of 100 cases."""
    generator = torch.Generator().manual_seed(samples)
    held, trials = 0, 400
    for trial in range(trials):
        numbers = torch.randn(samples, generator=generator, dtype=torch.float64)
        found = interval(
            lambda indices, numbers=numbers: float(numbers[indices].mean()),
            samples,
            Resampling(200, seed=trial),
        )
        held += not found.excludes_zero
    # Three standard errors of 95 %, and the 2 % that halves of four numbers still miss.
    assert 0.90 <= held / trials <= 0.99
