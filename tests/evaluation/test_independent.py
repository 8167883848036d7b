"""Metrics are equal to independent implementations: torchmetrics, prdc, vendi-score, scipy."""

import contextlib
import io

import numpy as np
import prdc
import pytest
import torch
from scipy import linalg
from scipy.spatial.distance import cdist
from torch import nn
from vendi_score import vendi

from smoothed_energy.evaluation import METRICS, FrechetReference, moments, vendi_score
from smoothed_energy.evaluation.kernel_sums import KernelSums

fid = pytest.importorskip("torchmetrics.image.fid")
kid = pytest.importorskip("torchmetrics.image.kid")


def features(count, size, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.linspace(0.2, 2, size, dtype=torch.float64)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) * mixing + shift


def by_sqrtm(x, y):
    a, b = (np.cov(features.numpy(), rowvar=False) for features in (x, y))
    root = linalg.sqrtm(a @ b)
    return float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(a + b - 2 * root.real)


class Pixels(nn.Module):
    """A network that torchmetrics can use: its features are the pixels."""

    num_features = 12

    def forward(self, x):
        return x.double().flatten(1)[:, :12]


def pictures(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 2, 2), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def sets():
    return pictures(40, 0), pictures(50, 1) // 2


def test_frechet_equals_torchmetrics(sets):
    other = fid.FrechetInceptionDistance(feature=Pixels(), normalize=False)
    other.set_dtype(torch.float64)
    for real, images in enumerate(sets):
        other.update(images, real=bool(real))
    found = METRICS["frechet"](*(Pixels()(images) for images in sets))
    assert found == pytest.approx(float(other.compute()), rel=1e-9)


def test_kernel_equals_torchmetrics(sets):
    other = kid.KernelInceptionDistance(
        feature=Pixels(), subsets=1, subset_size=40, normalize=False
    )
    other.set_dtype(torch.float64)
    samples, real = sets[0], sets[1][:40]
    other.update(samples, real=False)
    other.update(real, real=True)
    found = METRICS["kernel"](Pixels()(samples), Pixels()(real))
    assert found == pytest.approx(float(other.compute()[0]), rel=1e-9)


@pytest.mark.parametrize(("samples", "real"), [(90, 80), (20, 80), (80, 20), (15, 20)])
def test_frechet_equals_the_matrix_square_root_of_scipy(samples, real):
    # More of both than features, fewer of one, fewer of both.
    x, y = features(samples, 30, 2, shift=0.3), features(real, 30, 3)
    full = min(samples, real) > 30
    # The square root of a singular product is itself good to the root of the rounding only.
    tolerance = 1e-10 if full else 1e-5
    assert METRICS["frechet"](x, y) == pytest.approx(by_sqrtm(x, y), rel=tolerance)


@pytest.mark.parametrize(("samples", "real"), [(90, 80), (20, 80), (80, 20), (15, 20)])
def test_all_ways_to_the_frechet_distance_agree(samples, real):
    x, y = features(samples, 30, 2, shift=0.3), features(real, 30, 3)
    metric = METRICS["frechet"]
    expected = metric(x, y)
    reference = FrechetReference(moments(y))
    every = torch.arange(samples)
    for found in (
        metric.between_moments(moments(x), moments(y)),
        metric.to_moments(x, moments(y)),
        reference.distance(x),
        reference.subsets(x)(every),
        metric.subsets(x, y)(every),
    ):
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("samples", "real", "size"), [(60, 80, 4), (30, 25, 40)])
def test_precision_recall_density_and_coverage_equal_prdc(samples, real, size, seed):
    x, y = features(samples, size, seed, shift=0.4), features(real, size, seed + 10)
    with contextlib.redirect_stdout(io.StringIO()):
        expected = prdc.compute_prdc(y.numpy(), x.numpy(), nearest_k=5)
    found = {name: METRICS[name](x, y) for name in expected}
    assert found == pytest.approx(expected, abs=1e-12)
    assert len(set(expected.values())) > 2


@pytest.mark.parametrize(("count", "size"), [(40, 6), (12, 30)])
def test_vendi_equals_vendi_score(count, size):
    x = features(count, size, 4)
    expected = vendi.score_dual(x.numpy(), normalize=True)
    assert vendi_score(x) == pytest.approx(expected, rel=1e-9)
    assert METRICS["vendi"](x, x[:2]) == vendi_score(x)


def test_vendi_counts_pictures_that_have_nothing_in_common():
    assert vendi_score(torch.eye(7)) == pytest.approx(7)
    assert vendi_score(torch.ones(7, 3)) == pytest.approx(1)
    assert vendi_score(torch.eye(5).repeat(3, 1)) == pytest.approx(5)


def test_cmmd_equals_the_formula_of_its_authors():
    x, y = features(20, 8, 5, shift=2.0), features(30, 8, 6)
    gamma = 1 / (2 * 10**2)
    within_x, within_y, between = (
        np.exp(-gamma * cdist(a, b) ** 2).mean() for a, b in ((x, x), (y, y), (x, y))
    )
    expected = 1000 * (within_x + within_y - 2 * between)
    assert expected > 1
    assert METRICS["cmmd"](x, y) == pytest.approx(expected, rel=1e-10)
    assert METRICS["cmmd"](x, x) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_subsets_of_samples_have_the_values_that_they_have_alone(name, monkeypatch):
    monkeypatch.setattr("smoothed_energy.evaluation.precision_recall._KEPT", 1 << 40)
    metric = METRICS[name]
    for size in (5, 60):
        x, y = features(40, size, 7, shift=0.2), features(30, size, 8)
        value = metric.subsets(x, y)
        for seed in range(3):
            indices = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:20]
            expected = metric(x[indices], y)
            assert value(indices) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["frechet", "kernel", "cmmd"])
def test_samples_that_come_more_than_once_count_as_often(name):
    indices = torch.randint(0, 40, (40,), generator=torch.Generator().manual_seed(0))
    for size in (5, 60):
        x, y = features(40, size, 7, shift=0.2), features(30, size, 8)
        found = METRICS[name].subsets(x, y)(indices)
        assert found == pytest.approx(METRICS[name](x[indices], y), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_blocks_of_any_size_give_the_same(name, monkeypatch):
    x, y = features(40, 5, 7, shift=0.2), features(30, 5, 8)
    expected = METRICS[name](x, y)
    subset = torch.arange(0, 40, 2)
    of_subset = METRICS[name].subsets(x, y)(subset)
    for module in ("kernel_sums", "neighbours"):
        monkeypatch.setattr(f"smoothed_energy.evaluation.{module}._BLOCK", 64)
    for module in ("kernel_sums", "precision_recall", "density_coverage"):
        monkeypatch.setattr(f"smoothed_energy.evaluation.{module}._KEPT", 1)
    assert METRICS[name](x, y) == pytest.approx(expected, rel=1e-12)
    assert METRICS[name].subsets(x, y)(subset) == pytest.approx(of_subset, rel=1e-9, abs=1e-12)


def test_a_kernel_is_summed_in_blocks(monkeypatch):
    shapes = []

    def kernel(x, y):
        shapes.append(len(x) * len(y))
        return x @ y.T

    monkeypatch.setattr("smoothed_energy.evaluation.kernel_sums._BLOCK", 100)
    x, y = features(300, 5, 7), features(30, 5, 8)
    found = KernelSums(kernel, x, y, with_self=True).discrepancy()
    # The blocks of pairs with oneself are the largest.
    assert max(shapes) == 256 * 256
    assert len(shapes) > 20
    assert found == pytest.approx(float((x.mean(0) - y.mean(0)).square().sum()), rel=1e-9)


def test_useless_features_are_refused():
    with pytest.raises(ValueError, match="no direction"):
        vendi_score(torch.zeros(3, 2))
    for name in ("precision", "recall", "density", "coverage"):
        with pytest.raises(ValueError, match="N >= 6"):
            METRICS[name](features(5, 3, 0), features(9, 3, 0))
    reference = FrechetReference(moments(features(9, 3, 0)))
    with pytest.raises(ValueError, match=r"4 dimensions.*moments of 3"):
        reference.distance(features(3, 4, 0))
    with pytest.raises(ValueError, match="not finite"):
        reference.subsets(torch.full((3, 3), torch.inf))
    with pytest.raises(ValueError, match="1 samples"):
        reference.subsets(features(9, 3, 0))(torch.tensor([2]))
