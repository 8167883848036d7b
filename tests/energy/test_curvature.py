import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smoothed_energy.energy import (
    attention_energy,
    entrywise_hessian,
    largest_eigenvalue,
    smoothed_hessian,
    softmax_curvature,
    softmax_hessian,
)
from smoothed_energy.smoothing import GaussianBlur

F64 = torch.float64


def logits_of(shape, bound):
    elements = st.floats(-bound, bound, width=64)
    return hnp.arrays("float64", shape, elements=elements).map(torch.as_tensor)


def qk(*batch, queries=12, keys=12, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (*batch, queries, width), (*batch, keys, width)
    return [3 * torch.randn(shape, generator=generator, dtype=F64) for shape in shapes]


@given(logits_of((4, 7), 30.0))
def test_the_largest_eigenvalue_is_that_of_the_matrix(logits):
    p = logits.softmax(-1)
    expected = torch.linalg.eigvalsh(-softmax_hessian(logits))[..., -1]
    torch.testing.assert_close(largest_eigenvalue(p), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "p, expected",
    [
        ([0.5, 0.5], 0.5),
        ([0.5, 0.5, 0.0, 0.0], 0.5),
        ([0.25] * 4, 0.25),
        ([1.0, 0.0, 0.0], 0.0),
        ([1.0], 0.0),
        ([0.6, 0.4], 2 * 0.6 * 0.4),
        ([1 - 1e-12, 1e-12], 2e-12),
        ([0.5 + 1e-13, 0.5 - 1e-13], 0.5),
    ],
)
def test_eigenvalues_known_by_hand(p, expected):
    found = largest_eigenvalue(torch.tensor(p, dtype=F64))
    assert float(found) == pytest.approx(expected, rel=1e-4 if expected < 1e-6 else 1e-12)


def test_the_curvature_of_every_query_is_that_of_its_hessian():
    query, key = qk(2, 3, queries=9, keys=11)
    eigenvalues = torch.linalg.eigvalsh(-softmax_hessian(query @ key.mT / math.sqrt(5)))
    for block in (1, 4, 20, 1000):
        found = softmax_curvature(query, key, block=block)
        assert found.trace.shape == (2, 3, 9)
        torch.testing.assert_close(found.trace, eigenvalues.sum(-1))
        torch.testing.assert_close(found.spectral_norm, eigenvalues[..., -1])
    # Small eigenvalues have rounding errors in the matrix; here there are none so small.
    small = softmax_curvature(query, key, scale=0.1)
    eigenvalues = torch.linalg.eigvalsh(-softmax_hessian(query @ key.mT * 0.1))
    torch.testing.assert_close(small.log_pseudo_determinant, eigenvalues[..., 1:].log().sum(-1))


@given(logits_of((6,), 5.0))
def test_the_pseudo_determinant_has_a_closed_form(logits):
    p = logits.softmax(-1)
    eigenvalues = torch.linalg.eigvalsh(torch.diag(p) - torch.outer(p, p))
    assert eigenvalues[0].abs() < 1e-14
    expected = math.log(6) + p.log().sum()
    torch.testing.assert_close(eigenvalues[1:].log().sum(), expected, rtol=1e-6, atol=1e-6)
    found = softmax_curvature(logits[None, None], torch.eye(6, dtype=F64)[None], scale=1)
    torch.testing.assert_close(found.log_pseudo_determinant[0, 0], expected)


def test_keys_that_are_not_seen_are_left_out():
    query, key = qk(2)
    mask = torch.ones(12, dtype=torch.bool)
    mask[[2, 5, 6]] = False
    found = softmax_curvature(query, key, mask=mask)
    expected = softmax_curvature(query, key[:, mask])
    for name in ("trace", "spectral_norm", "log_pseudo_determinant"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def test_a_query_that_sees_no_key_has_no_curvature():
    query, key = qk()
    mask = torch.ones(12, 12, dtype=torch.bool)
    mask[3] = False
    found = softmax_curvature(query, key, mask=mask)
    assert found.trace.isnan().nonzero().tolist() == [[3]]
    assert found.spectral_norm.isnan().nonzero().tolist() == [[3]]
    one = torch.zeros(12, dtype=torch.bool)
    one[4] = True
    only = softmax_curvature(query, key, mask=one)
    for values in (only.trace, only.spectral_norm, only.log_pseudo_determinant):
        assert (values == 0).all()


@given(logits_of((2, 8), 50.0))
def test_bounds_of_the_curvature(logits):
    found = softmax_curvature(logits, torch.eye(8, dtype=F64), scale=1)
    uniform = (1 - 8) * math.log(8)
    assert ((found.trace >= 0) & (found.trace <= 1 - 1 / 8 + 1e-12)).all()
    assert ((found.spectral_norm >= 0) & (found.spectral_norm <= 0.5 + 1e-12)).all()
    assert (found.spectral_norm <= found.trace + 1e-12).all()
    assert (found.log_pseudo_determinant <= uniform + 1e-9).all()


@given(logits_of((5,), 4.0), st.floats(0.3, 3))
def test_hessians_are_second_derivatives(logits, sigma):
    matrix = GaussianBlur(sigma).matrix((1, 5))

    def energy(a):
        return -a.logsumexp(-1)

    def smoothed(a):
        return -(matrix @ a).logsumexp(-1)

    expected = torch.autograd.functional.hessian(energy, logits)
    torch.testing.assert_close(softmax_hessian(logits), expected)
    expected = torch.autograd.functional.hessian(smoothed, logits)
    torch.testing.assert_close(smoothed_hessian(logits, matrix), expected)


@given(logits_of((3, 6), 10.0))
def test_the_determinant_is_zero_and_says_nothing(logits):
    hessian = softmax_hessian(logits)
    assert hessian.sum(-1).abs().max() < 1e-14
    assert torch.linalg.det(hessian).abs().max() < 1e-14


def test_the_entrywise_hessian_of_the_paper_is_another_matrix():
    logits = torch.arange(6, dtype=F64) / 3
    matrix = GaussianBlur(1.0, padding="symmetric").matrix((1, 6))
    ours, theirs = smoothed_hessian(logits, matrix), entrywise_hessian(logits, matrix)
    assert torch.linalg.det(ours).abs() < 1e-18
    assert torch.linalg.det(theirs).abs() > 1e-8
    torch.testing.assert_close(
        theirs.diag(), softmax_hessian(matrix @ logits).diag() * matrix.diag()
    )


def test_queries_and_keys_exchanged_give_the_energy_of_the_paper():
    query, key = qk(queries=7, keys=9)
    columns = (query @ key.T).T
    torch.testing.assert_close(
        attention_energy(key, query, scale=1), -columns.logsumexp(-1).sum(-1)
    )
    eigenvalues = torch.linalg.eigvalsh(-softmax_hessian(columns))
    found = softmax_curvature(key, query, scale=1).spectral_norm
    torch.testing.assert_close(found, eigenvalues[..., -1])
