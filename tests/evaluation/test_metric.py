"""Metrics by name."""

import pytest
import torch

from smoothed_energy.evaluation import (
    METRICS,
    Metric,
    frechet_distance,
    kernel_distance,
    moments,
    register_metric,
)

generator = torch.Generator().manual_seed(0)
SAMPLES = torch.randn(12, 3, generator=generator)
REAL = torch.randn(15, 3, generator=generator) + 1


def test_the_metrics_are_the_distances():
    assert METRICS["frechet"](SAMPLES, REAL) == frechet_distance(moments(SAMPLES), moments(REAL))
    assert METRICS["kernel"](SAMPLES, REAL) == kernel_distance(SAMPLES, REAL)


@pytest.mark.parametrize("name", METRICS)
def test_nearer_samples_are_the_better_ones(name):
    near, far = (METRICS[name](SAMPLES + shift, REAL) for shift in (1, 5))
    if METRICS[name].better == "lower":
        assert near < far
    else:
        assert near > far


@pytest.mark.parametrize("name", ["frechet", "kernel", "cmmd"])
def test_of_distances_the_lower_is_better(name):
    assert METRICS[name].better == "lower"


@pytest.mark.parametrize("name", METRICS)
def test_too_few_and_unlike_features_are_refused(name):
    least = METRICS[name].least
    with pytest.raises(ValueError, match=rf"{name}.*N >= {least}"):
        METRICS[name](SAMPLES, REAL[: least - 1])
    with pytest.raises(ValueError, match=f"{name}: 3 features.*2 of real"):
        METRICS[name](SAMPLES, REAL[:, :2])


def test_only_metrics_of_a_new_name_are_registered():
    with pytest.raises(TypeError, match="not a Metric"):
        register_metric(kernel_distance)
    with pytest.raises(ValueError, match=r"lambda.*kernel\.kernel_distance.*'kernel'"):
        register_metric(Metric("kernel", lambda samples, real: 0.0))
    assert register_metric(METRICS["kernel"]) is METRICS["kernel"]
