import math

import numpy as np
import pytest
import torch
from scipy import linalg

from smoothed_energy.evaluation import Moments, frechet_distance, kernel_distance, moments


def gaussian(mean, covariance, count=1000):
    return Moments(mean.double(), covariance.double(), count)


def test_equal_moments_have_no_distance():
    features = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    found = moments(features)
    assert frechet_distance(found, found) == pytest.approx(0.0, abs=1e-9)


def test_diagonal_covariances_follow_the_closed_form():
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 1.0, 0.25])
    shift = torch.tensor([1.0, -2.0, 0.5])
    expected = float(shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    distance = frechet_distance(
        gaussian(torch.zeros(3), torch.diag(a)), gaussian(shift, torch.diag(b))
    )
    assert distance == pytest.approx(expected, rel=1e-12)


def test_full_covariances_agree_with_the_matrix_square_root_of_scipy():
    generator = torch.Generator().manual_seed(1)
    first = moments(torch.randn(300, 16, generator=generator, dtype=torch.float64))
    mixed = torch.randn(300, 16, generator=generator, dtype=torch.float64)
    second = moments(mixed @ torch.randn(16, 16, generator=generator, dtype=torch.float64))
    a, b = first.covariance.numpy(), second.covariance.numpy()
    expected = (
        np.square(first.mean.numpy() - second.mean.numpy()).sum()
        + np.trace(a + b)
        - 2 * np.trace(linalg.sqrtm(a @ b).real)
    )
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_the_distance_is_symmetric_and_survives_deficient_rank():
    generator = torch.Generator().manual_seed(2)
    few = moments(torch.randn(5, 40, generator=generator))
    many = moments(torch.randn(100, 40, generator=generator))
    forth, back = frechet_distance(few, many), frechet_distance(many, few)
    assert math.isfinite(forth)
    assert forth == pytest.approx(back, rel=1e-6)


def test_a_large_mean_costs_no_precision():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(500, 8, generator=generator, dtype=torch.float64)
    assert torch.allclose(
        moments(features + 1e6).covariance, moments(features).covariance, atol=1e-6
    )


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(1, 3), "expected"),
        (torch.zeros(3), "expected"),
        (torch.full((4, 3), math.nan), "finite"),
    ],
)
def test_useless_features_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        moments(features)


def test_moments_of_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="3"):
        frechet_distance(moments(torch.randn(9, 3)), moments(torch.randn(9, 4)))


def test_the_kernel_distance_agrees_with_a_sum_over_pairs():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 5, generator=generator, dtype=torch.float64) + 0.5

    def k(a, b):
        return float((a @ b / 5 + 1) ** 3)

    xx = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-10)


def test_the_kernel_distance_of_equal_distributions_is_near_zero_on_either_side():
    generator = torch.Generator().manual_seed(5)
    values = [
        kernel_distance(
            torch.randn(60, 4, generator=generator), torch.randn(60, 4, generator=generator)
        )
        for _ in range(20)
    ]
    assert min(values) < 0 < max(values)
    assert abs(float(np.mean(values))) < 0.1
