"""Diversity over the seeds of one prompt."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from smoothed_energy.evaluation.diversity import DIVERSITY, mean_pairwise_distance


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_it_is_the_mean_over_all_pairs(count, size, seed):
    features = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    pairs = [
        1 - float(a @ b / (a.norm() * b.norm()))
        for a, b in itertools.combinations(features.double(), 2)
    ]
    assert mean_pairwise_distance(features) == pytest.approx(np.mean(pairs), abs=1e-9)


def test_it_is_that_of_scipy():
    features = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    expected = pdist(features.double().numpy(), "cosine").mean()
    assert DIVERSITY(features) == pytest.approx(expected, rel=1e-12)


def test_equal_pictures_have_none_and_opposite_ones_the_most():
    one = torch.tensor([[3.0, 4.0]])
    assert DIVERSITY(one.repeat(5, 1)) == 0
    assert DIVERSITY(torch.cat((one, -7 * one))) == pytest.approx(2) == DIVERSITY.bounds[1]
    assert DIVERSITY(torch.eye(4)) == pytest.approx(1)


def test_useless_features_are_refused():
    with pytest.raises(ValueError, match="zero vectors"):
        DIVERSITY(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="not finite"):
        DIVERSITY(torch.tensor([[float("nan"), 0.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="N >= 2"):
        DIVERSITY(torch.ones(1, 3))
    with pytest.raises(ValueError, match="N >= 2"):
        mean_pairwise_distance(torch.ones(3))
