import math

import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.energy import attention_energy, log_sum_exp
from smoothed_energy.smoothing import GaussianBlur

F64 = torch.float64


def qk(*batch, queries=12, keys=12, width=5, dtype=F64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (*batch, queries, width), (*batch, keys, width)
    return [3 * torch.randn(shape, generator=generator, dtype=F64).to(dtype) for shape in shapes]


@given(block=st.integers(1, 100), queries=st.integers(1, 9), keys=st.integers(1, 9))
def test_log_sum_exp_in_blocks_is_scipy_s(block, queries, keys):
    query, key = qk(2, 3, queries=queries, keys=keys)
    found = log_sum_exp(query, key, block=block)
    expected = scipy.special.logsumexp((query @ key.mT / math.sqrt(5)).numpy(), axis=-1)
    assert found.shape == (2, 3, queries)
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(12, 12), (1, 12), (12,), (3, 12, 12), (2, 1, 1, 12)])
@pytest.mark.parametrize("block", [1, 7, 30, 1000])
def test_masks_are_those_of_attention(shape, block):
    query, key = qk(2, 3)
    generator = torch.Generator().manual_seed(1)
    seen = torch.rand(shape, generator=generator) < 0.6
    seen[..., 0] = True
    added = torch.randn(shape, generator=generator, dtype=F64)
    logits = query @ key.mT / math.sqrt(5)
    for mask, expected in (
        (seen, logits.masked_fill(~seen, -math.inf).logsumexp(-1)),
        (added, (logits + added).logsumexp(-1)),
    ):
        found = log_sum_exp(query, key, mask=mask, block=block)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_a_query_that_sees_no_key_has_an_infinite_energy():
    query, key = qk()
    mask = torch.ones(12, 12, dtype=torch.bool)
    mask[3] = False
    assert log_sum_exp(query, key, mask=mask).isneginf().nonzero().tolist() == [[3]]
    assert attention_energy(query, key, mask=mask) == math.inf


def test_keys_broadcast_over_heads():
    query, key = qk(2, 3)
    shared = key[:, :1]
    found = log_sum_exp(query, shared, block=5)
    torch.testing.assert_close(found, log_sum_exp(query, shared.expand_as(key)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32(dtype):
    query, key = qk(2, dtype=dtype)
    found = log_sum_exp(query, key)
    assert found.dtype == torch.float32
    exact = log_sum_exp(query.double(), key.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)


def test_autocast_does_not_lower_the_precision():
    query, key = qk(2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = log_sum_exp(query, key)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, log_sum_exp(query, key))


def test_attention_is_the_gradient_of_the_energy():
    query, key = qk(2)
    query.requires_grad_()
    attention_energy(query, key).sum().backward()
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, key)
    torch.testing.assert_close(-query.grad * math.sqrt(5), attended)


def test_the_energy_of_the_paper_has_scale_one():
    query, key = qk()
    energy = attention_energy(query, key, scale=1)
    torch.testing.assert_close(energy, -(query @ key.T).exp().sum(1).log().sum())


def test_logits_of_a_block_are_all_that_is_in_memory(monkeypatch):
    seen = []
    original = torch.logsumexp
    monkeypatch.setattr(
        torch, "logsumexp", lambda x, dim: seen.append(tuple(x.shape)) or original(x, dim)
    )
    query, key = qk(2, 3)
    log_sum_exp(query, key, block=5)
    assert {math.prod(shape[:-1]) for shape in seen} <= {5, 2}
    assert sum(math.prod(shape[:-1]) for shape in seen) == 2 * 3 * 12
    seen.clear()
    log_sum_exp(query, key, block=30)
    assert {shape[:-1] for shape in seen} == {(2, 12)}


@given(
    seed=st.integers(0, 2**30),
    size=st.floats(0.01, 30),
    sigma=st.floats(0.2, 40) | st.just(math.inf),
    padding=st.sampled_from(["symmetric", "circular"]),
)
def test_a_doubly_stochastic_blur_never_lowers_the_energy(seed, size, sigma, padding):
    # Jensen: lse((B Q)_i) <= sum_j b_ij lse(q_j), and the columns of B sum to 1.
    query, key = qk(queries=12, keys=9, seed=seed)
    blurred = GaussianBlur(sigma, padding=padding).apply(size * query, (3, 4))
    assert attention_energy(blurred, key) >= attention_energy(size * query, key) - 1e-9


def test_a_blur_with_reflected_borders_can_lower_the_energy():
    # Its columns do not sum to 1: a large query that they count twice outweighs the others.
    blur = GaussianBlur(1.0, padding="reflect")
    heaviest = int(blur.matrix((1, 6)).sum(0).argmax())
    query, key = torch.zeros(6, 1, dtype=F64), torch.tensor([[-1.0], [1.0]], dtype=F64)
    query[heaviest] = 1000
    change = attention_energy(blur.apply(query, (1, 6)), key) - attention_energy(query, key)
    assert change < -1


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((3, 4), (3, 5)), r"query of shape \(3, 4\) and key of shape \(3, 5\)"),
        (((2, 3, 4), (3, 3, 4)), "leading dimensions"),
        (((4,), (3, 4)), r"query: expected shape \(\.\.\., T, d\)"),
        (((3, 4), (0, 4)), "key: expected shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, message):
    query, key = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        log_sum_exp(query, key)


def test_masks_and_dtypes_that_do_not_fit_are_refused():
    query, key = qk(2)
    with pytest.raises(ValueError, match=r"mask of shape \(3, 12\); expected .*\(2, 12, 12\)"):
        log_sum_exp(query, key, mask=torch.ones(3, 12))
    with pytest.raises(TypeError, match="mask: expected bool"):
        log_sum_exp(query, key, mask=torch.ones(12, 12, dtype=torch.int64))
    with pytest.raises(TypeError, match="query: expected a real"):
        log_sum_exp(query.long(), key)
    with pytest.raises(ValueError, match="block"):
        log_sum_exp(query, key, block=0)
