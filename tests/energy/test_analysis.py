import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.energy import analyse
from smoothed_energy.smoothing import BoxBlur, EMASmoothing, GaussianBlur

F64 = torch.float64
GRIDS = [(1, 12), (4, 6), (3, 2, 4)]


def of(operator, grid):
    return {one.name: one for one in analyse(operator, grid).requirements}


def variance(tokens):
    return tokens.var(dim=0, correction=0)


def test_reflected_borders_do_not_preserve_the_mean():
    found = analyse(GaussianBlur(10.0), (1, 32))
    assert found.column_sums.least == pytest.approx(0.522, abs=5e-4)
    assert found.column_sums.largest == pytest.approx(1.044, abs=5e-4)
    assert found.spectral_norm == pytest.approx(1.0076, abs=5e-5)
    assert found.row_sums.deviation < 1e-12
    assert not found.doubly_stochastic
    requirements = of(GaussianBlur(10.0), (1, 32))
    assert not requirements["mean"].holds
    assert requirements["mean"].margin == pytest.approx(-0.478, abs=5e-4)
    assert requirements["diagonal"].holds


def test_reflected_borders_can_let_the_variance_grow_and_need_not():
    # At sigma = 10 the mean square may grow, but only through the mean; at sigma = 1 the variance.
    assert analyse(GaussianBlur(10.0), (1, 32)).deviation_norm == pytest.approx(0.725, abs=5e-4)
    found = analyse(GaussianBlur(1.0), (1, 32))
    assert found.deviation_norm == pytest.approx(1.0057, abs=5e-5)
    assert not of(GaussianBlur(1.0), (1, 32))["variance"].holds
    matrix = GaussianBlur(1.0).matrix((1, 32))
    centred = matrix - matrix.mean(0)
    worst = torch.linalg.svd(centred - centred.mean(1, keepdim=True)).Vh[0]
    grown = variance(matrix @ worst) / variance(worst)
    assert float(grown) == pytest.approx(found.deviation_norm**2)
    assert grown > 1.01


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    "operator",
    [
        GaussianBlur(1.3, padding="symmetric"),
        GaussianBlur(10.0, padding="symmetric"),
        GaussianBlur(2.0, padding="circular"),
        GaussianBlur(math.inf),
        BoxBlur(3, 0.9, padding="symmetric"),
        GaussianBlur(1.3, padding="symmetric", temporal_sigma=1.0),
    ],
)
def test_symmetric_borders_give_symmetric_and_doubly_stochastic_operators(operator, grid):
    found = analyse(operator, grid)
    assert found.doubly_stochastic
    assert found.symmetry_error < 1e-12
    assert found.spectral_norm == pytest.approx(1)
    assert found.deviation_norm < 1 + 1e-12
    assert all(requirement.holds for requirement in found.requirements)


def test_zero_padding_preserves_neither_sum():
    found = analyse(BoxBlur(3, padding="zeros"), (12, 12))
    assert found.column_sums.least == pytest.approx((2 / 3) ** 2)
    assert found.row_sums.least == pytest.approx((2 / 3) ** 2)
    assert found.column_sums.largest == found.row_sums.largest == pytest.approx(1)
    assert found.deviation_norm == math.inf
    holds = {name: one.holds for name, one in of(BoxBlur(3, padding="zeros"), (12, 12)).items()}
    assert holds == {"mean": False, "variance": False, "diagonal": True}


def test_a_moving_average_meets_none_of_the_three():
    found = analyse(EMASmoothing(0.95), (12, 12))
    assert found.row_sums.deviation < 1e-12
    assert found.column_sums.least == pytest.approx(0.05)
    assert found.column_sums.largest == pytest.approx((1 - 0.95**144) / 0.05)
    assert found.deviation_norm > 2.7
    # The first token has no history, and stays as it is.
    assert found.diagonal.largest == 1
    assert not any(requirement.holds for requirement in found.requirements)


def test_the_identity_keeps_mean_and_variance_and_all_of_the_diagonal():
    found = analyse("gaussian:0", (4, 4))
    assert [one.holds for one in found.requirements] == [True, True, False]
    assert [one.margin for one in found.requirements] == pytest.approx([0, 0, 0], abs=1e-12)
    assert found.effective_radius == 0


@pytest.mark.parametrize("grid", GRIDS)
def test_the_radius_is_that_of_a_brute_force(grid):
    operator = BoxBlur(3, 0.7, temporal_kernel_size=3)
    matrix = operator.matrix(grid)
    places = torch.cartesian_prod(*[torch.arange(size) for size in grid])
    total = 0.0
    for row, here in zip(matrix, places, strict=True):
        for weight, there in zip(row, places, strict=True):
            total += float(weight) * float(((here - there) ** 2).sum())
    expected = math.sqrt(total / float(matrix.sum()))
    assert analyse(operator, grid).effective_radius == pytest.approx(expected)


def test_the_radius_of_a_gaussian_is_its_sigma_on_each_axis():
    on_one = analyse(GaussianBlur(1.5, kernel_size=15, padding="symmetric"), (1, 300))
    assert on_one.effective_radius == pytest.approx(1.5, rel=0.01)
    on_two = analyse(GaussianBlur(0.7, kernel_size=9, padding="symmetric"), (24, 24))
    assert on_two.effective_radius == pytest.approx(0.7 * math.sqrt(2), rel=0.03)


@given(
    sigma=st.floats(0.2, 30),
    padding=st.sampled_from(["reflect", "symmetric", "replicate", "circular"]),
    seed=st.integers(0, 2**30),
)
def test_no_tokens_deviate_by_more_than_the_norm_says(sigma, padding, seed):
    operator = GaussianBlur(sigma, padding=padding)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(12, 3, generator=generator, dtype=F64) + 5
    found = analyse(operator, (3, 4))
    grown = variance(operator.apply(tokens, (3, 4))) / variance(tokens)
    assert (grown <= found.deviation_norm**2 + 1e-9).all()
    squares = operator.apply(tokens, (3, 4)).square().sum(0) / tokens.square().sum(0)
    assert (squares <= found.spectral_norm**2 + 1e-9).all()


def test_what_is_no_operator_is_refused():
    with pytest.raises(ValueError, match="unknown smoothing"):
        analyse("median:3", (4, 4))
    with pytest.raises(ValueError, match="a grid is"):
        analyse("gaussian:1", (16,))
