"""The smoothing operators as mathematics: matrices, convolutions, means, variances, averages."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smoothed_energy import smoothing
from smoothed_energy.smoothing import (
    PADDINGS,
    RAMPS,
    BoxBlur,
    Compose,
    EMASmoothing,
    GaussianBlur,
    axis_matrices,
    axis_products,
)

INF = math.inf

sides = st.integers(1, 9)
grids = st.one_of(
    st.tuples(sides, sides),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
)
odd = st.integers(0, 9).map(lambda n: 2 * n + 1)
sigmas = st.one_of(st.sampled_from([0.0, 0.1, 1.0, 10.0, INF]), st.floats(0.05, 40))
units = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
paddings = st.sampled_from(PADDINGS)


@st.composite
def gaussians(draw, paddings=paddings):
    sigma = draw(sigmas)
    kernel_size = None if sigma == INF else draw(st.none() | odd)
    return GaussianBlur(sigma, kernel_size, draw(paddings), draw(st.none() | sigmas))


def boxes(paddings=paddings):
    return st.builds(BoxBlur, odd, units, paddings, st.none() | odd)


averages = st.builds(EMASmoothing, units, st.none() | units, st.sampled_from(RAMPS))
operators = st.one_of(gaussians(), boxes(), averages)
anything = st.one_of(
    operators, st.lists(operators, min_size=2, max_size=3).map(lambda o: Compose(*o))
)
normalised = st.one_of(
    gaussians(st.sampled_from(PADDINGS[:-1])), boxes(st.sampled_from(PADDINGS[:-1])), averages
)

thorough = settings(max_examples=50, deadline=None)
brief = settings(max_examples=30, deadline=None)  # convolutions in float64 are slow


def random_tokens(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def pad(x, rows, columns, padding):
    """Pad the last two axes of an image batch by hand."""
    if padding == "symmetric":
        for axis, n in ((-2, rows), (-1, columns)):
            before = x.narrow(axis, 0, n).flip(axis)
            after = x.narrow(axis, x.shape[axis] - n, n).flip(axis)
            x = torch.cat([before, x, after], axis)
        return x
    mode = "constant" if padding == "zeros" else padding
    return F.pad(x, (columns, columns, rows, rows), mode=mode)


def convolve(tokens, grid, kernels, padding):
    """Depthwise 2-D convolution with explicit padding, as the reference does it."""
    *batch, _, d = tokens.shape
    x = tokens.reshape(-1, *grid, d).permute(0, 3, 1, 2)
    kernel_h, kernel_w = kernels
    x = pad(x, len(kernel_h) // 2, len(kernel_w) // 2, padding)
    weight = torch.outer(kernel_h, kernel_w).expand(d, 1, -1, -1)
    y = F.conv2d(x, weight, groups=d)
    return y.permute(0, 2, 3, 1).reshape(*batch, -1, d)


def reference_kernel(sigma, n, kernel_size=None):
    if kernel_size is None:
        kernel_size = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    kernel_size = min(kernel_size, n - (n % 2 - 1))
    x = torch.linspace(-(kernel_size - 1) / 2, (kernel_size - 1) / 2, kernel_size).double()
    weights = torch.exp(-0.5 * (x / sigma).square())
    return weights / weights.sum()


def average_by_loop(x, decays):
    y = x.clone()
    for t in range(1, x.shape[-2]):
        y[..., t, :] = decays[t] * y[..., t - 1, :] + (1 - decays[t]) * x[..., t, :]
    return y


# --- apply, matrix, convolution -----------------------------------------------------------------


@thorough
@given(anything, grids)
def test_apply_multiplies_by_the_matrix(op, grid):
    tokens = random_tokens(2, 3, math.prod(grid), 4)
    torch.testing.assert_close(op.apply(tokens, grid), op.matrix(grid) @ tokens)


@thorough
@given(anything, grids)
def test_head_transposed_tokens_are_smoothed_alike(op, grid):
    tokens = random_tokens(2, math.prod(grid), 3, 4).transpose(1, 2)
    result = op.apply(tokens, grid)
    torch.testing.assert_close(result, op.apply(tokens.contiguous(), grid))


@thorough
@given(anything, grids, st.integers(1, 7), st.integers(1, 4))
def test_tokens_smoothed_in_blocks_are_smoothed_alike(op, grid, rows, block):
    tokens = torch.randn(rows, math.prod(grid), 3, dtype=torch.float64)
    whole = op.apply(tokens, grid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axis_products, "_BLOCK_BYTES", block * tokens[0].numel() * 8)
        torch.testing.assert_close(op.apply(tokens, grid), whole, rtol=0, atol=1e-12)
        transposed = tokens[None].transpose(1, 2).contiguous().transpose(1, 2)
        torch.testing.assert_close(op.apply(transposed, grid)[0], whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("op", [GaussianBlur(1.5), BoxBlur(3, alpha=0.5)], ids=str)
def test_blocks_leave_derivatives_and_transforms_as_they_are(op, monkeypatch):
    tokens = torch.randn(5, 12, 2, dtype=torch.float64)
    direction = torch.randn_like(tokens)
    expected = op.matrix((3, 4)) @ direction
    monkeypatch.setattr(axis_products, "_BLOCK_BYTES", 1)

    def apply(x):
        return op.apply(x, (3, 4))

    made = []
    real = axis_products._apply_in_blocks
    monkeypatch.setattr(axis_products, "_apply_in_blocks", lambda *a: made.append(1) or real(*a))
    torch.testing.assert_close(apply(direction), expected)
    assert made
    _, forward = torch.func.jvp(apply, (tokens,), (direction,))
    torch.testing.assert_close(forward, expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(tokens, direction)
        tangent = torch.autograd.forward_ad.unpack_dual(apply(dual)).tangent
    torch.testing.assert_close(tangent, expected)
    stacked = torch.stack([direction, tokens])
    torch.testing.assert_close(torch.func.vmap(apply)(stacked)[0], expected)
    _, pull = torch.func.vjp(apply, tokens)
    torch.testing.assert_close(pull(direction)[0], op.matrix((3, 4)).T @ direction)
    compiled = torch.compile(apply, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(direction), expected)


def test_memory_that_runs_out_in_a_block_is_an_error_and_not_tried_again(monkeypatch):
    calls = []

    def run_out(*args):
        calls.append(args)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you ran out of memory")

    monkeypatch.setattr(axis_products, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(axis_products, "_multiply", run_out)
    with pytest.raises(RuntimeError, match="out of memory"):
        GaussianBlur(1.5).apply(torch.randn(5, 12, 2), (3, 4))
    assert len(calls) == 1


@brief
@given(st.floats(0.2, 20), st.none() | odd, paddings, sides, sides)
def test_a_gaussian_blur_is_a_convolution_with_explicit_padding(sigma, k, padding, h, w):
    op = GaussianBlur(sigma, k, padding)
    tokens = random_tokens(2, h * w, 3)
    kernels = [reference_kernel(sigma, n, k) if n > 1 else torch.ones(1).double() for n in (h, w)]
    expected = convolve(tokens, (h, w), kernels, padding)
    torch.testing.assert_close(op.apply(tokens, (h, w)), expected, rtol=1e-6, atol=1e-6)


@brief
@given(odd, units, paddings, sides, sides)
def test_a_box_blur_is_a_mean_over_a_window_mixed_with_the_identity(k, alpha, padding, h, w):
    tokens = random_tokens(2, h * w, 3)
    sizes = [min(k, n - (n % 2 - 1)) if n > 1 else 1 for n in (h, w)]
    box = convolve(tokens, (h, w), [torch.full((s,), 1 / s).double() for s in sizes], padding)
    expected = alpha * box + (1 - alpha) * tokens
    result = BoxBlur(k, alpha, padding).apply(tokens, (h, w))
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


@thorough
@given(anything, grids)
def test_blurring_the_queries_blurs_the_logits(op, grid):
    """Proposition 3.1: B (Q K^T) = (B Q) K^T."""
    q, k = random_tokens(2, math.prod(grid), 5).unbind(0)
    torch.testing.assert_close(op.apply(q @ k.T, grid), op.apply(q, grid) @ k.T)


def test_a_kernel_of_the_reference_has_the_reference_size():
    assert axis_matrices._reference_kernel_size(1) == 7
    assert axis_matrices._reference_kernel_size(10) == 61
    assert axis_matrices._reference_kernel_size(0.5) == 3
    assert [axis_matrices._limit(61, n) for n in (1, 2, 7, 32, 33, 64)] == [1, 3, 7, 33, 33, 61]


# --- what the matrices are ----------------------------------------------------------------------


@thorough
@given(normalised, grids)
def test_rows_sum_to_one(op, grid):
    rows = op.matrix(grid).sum(1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


@thorough
@given(st.one_of(gaussians(st.just("zeros")), boxes(st.just("zeros"))), grids)
def test_zero_padding_makes_rows_that_sum_to_at_most_one(op, grid):
    assert op.matrix(grid).sum(1).max() <= 1 + 1e-12


def test_zero_padding_loses_weight_at_the_border():
    assert BoxBlur(3, padding="zeros").matrix((3, 3)).sum(1)[0] == pytest.approx(4 / 9)


@thorough
@given(normalised, grids)
def test_no_weight_is_negative(op, grid):
    assert op.matrix(grid).min() >= 0


@thorough
@given(
    st.one_of(
        gaussians(st.sampled_from(["symmetric", "circular"])),
        boxes(st.sampled_from(["symmetric", "circular"])),
    ),
    grids,
)
def test_symmetric_and_circular_padding_are_doubly_stochastic_and_lower_the_variance(op, grid):
    B = op.matrix(grid)
    torch.testing.assert_close(B.sum(0), torch.ones(len(B)).double())
    torch.testing.assert_close(B, B.T)
    assert torch.linalg.matrix_norm(B, 2) <= 1 + 1e-9
    tokens = random_tokens(math.prod(grid), 6)
    smoothed = op.apply(tokens, grid)
    torch.testing.assert_close(smoothed.mean(0), tokens.mean(0))
    variance, before = smoothed.var(0, correction=0), tokens.var(0, correction=0)
    assert (variance <= before + 1e-9).all()


def test_reflect_padding_does_not_preserve_the_mean():
    B = GaussianBlur(10).matrix((1, 32))
    assert B.sum(0).min() == pytest.approx(0.52, abs=0.005)
    assert B.sum(0).max() == pytest.approx(1.04, abs=0.005)


def test_reflect_padding_can_raise_a_norm():
    B = GaussianBlur(10).matrix((1, 32))
    assert torch.linalg.matrix_norm(B, 2) == pytest.approx(1.008, abs=0.0005)


def test_an_axis_that_is_reflected_and_one_that_is_not_are_told_apart():
    """Grids that are not square: H comes first, tokens are in row-major order."""
    op, x = GaussianBlur(1), torch.zeros(3 * 5, 1)
    x[1 * 5 + 2] = 1
    smoothed = op.apply(x, (3, 5)).reshape(3, 5)
    torch.testing.assert_close(smoothed, smoothed.flip(0))
    torch.testing.assert_close(smoothed, smoothed.flip(1))


@thorough
@given(st.one_of(gaussians(), boxes()), sides)
def test_a_single_row_and_a_single_column_are_smoothed_alike(op, n):
    torch.testing.assert_close(op.matrix((1, n)), op.matrix((n, 1)))


# --- the two ends: uniform and identity ---------------------------------------------------------


@given(grids)
@thorough
def test_an_infinite_sigma_is_the_mean_of_a_frame(grid):
    frames = grid[0] if len(grid) == 3 else 1
    tokens = random_tokens(2, math.prod(grid), 3)
    expected = tokens.reshape(2, frames, -1, 3).mean(2, keepdim=True)
    result = GaussianBlur(INF).apply(tokens, grid).reshape(2, frames, -1, 3)
    torch.testing.assert_close(result, expected.expand_as(result))


def test_a_sigma_above_the_threshold_of_the_reference_is_infinite():
    assert GaussianBlur(10_000) == GaussianBlur(INF)
    assert GaussianBlur(9999) != GaussianBlur(INF)


@thorough
@given(anything, grids)
def test_what_says_that_it_is_uniform_averages_all_tokens(op, grid):
    T = math.prod(grid)
    if op.is_uniform(grid):
        torch.testing.assert_close(op.matrix(grid), torch.full((T, T), 1 / T).double())


@thorough
@given(anything, grids)
def test_what_says_that_it_is_the_identity_is_it(op, grid):
    tokens = random_tokens(math.prod(grid), 2)
    if op.is_identity(grid):
        torch.testing.assert_close(op.matrix(grid), torch.eye(math.prod(grid)).double())
        assert op.apply(tokens, grid) is tokens


@pytest.mark.parametrize(
    "op",
    [
        GaussianBlur(0),
        GaussianBlur(5, 1),
        GaussianBlur(0.1),
        BoxBlur(1),
        BoxBlur(9, alpha=0),
        EMASmoothing(0),
        EMASmoothing(0, 0),
        Compose(GaussianBlur(0), EMASmoothing(0)),
    ],
)
def test_these_are_the_identity(op):
    assert op.is_identity((4, 5)) and not op.is_uniform((4, 5))


def test_a_single_token_is_both_its_mean_and_itself():
    for op in (GaussianBlur(3), GaussianBlur(INF), BoxBlur(3), EMASmoothing(0.5)):
        assert op.is_identity((1, 1)) and op.is_uniform((1, 1))


def test_uniform_depends_on_the_frames_of_the_grid():
    assert GaussianBlur(INF).is_uniform((4, 5))
    assert GaussianBlur(INF).is_uniform((1, 4, 5))
    assert not GaussianBlur(INF).is_uniform((2, 4, 5))
    assert GaussianBlur(INF, temporal_sigma=INF).is_uniform((2, 4, 5))
    assert not GaussianBlur(INF, temporal_sigma=2).is_uniform((2, 4, 5))
    assert not GaussianBlur(5).is_uniform((4, 5))
    assert (GaussianBlur(INF) @ GaussianBlur(0)).is_uniform((4, 5))


# --- frames -------------------------------------------------------------------------------------


@thorough
@given(
    st.sampled_from([GaussianBlur(2), GaussianBlur(INF), BoxBlur(3, 0.7), EMASmoothing(0.9, 0.2)])
)
def test_frames_are_smoothed_by_themselves(op):
    tokens = random_tokens(2, 3 * 20, 4)
    each = [op.apply(frame, (4, 5)) for frame in tokens.split(20, dim=1)]
    torch.testing.assert_close(op.apply(tokens, (3, 4, 5)), torch.cat(each, dim=1))


@pytest.mark.parametrize(
    "op",
    [
        GaussianBlur(0, temporal_sigma=1.5),
        GaussianBlur(0, temporal_sigma=INF),
        BoxBlur(1, temporal_kernel_size=3),
    ],
)
def test_frames_are_mixed_when_asked_for(op):
    tokens = random_tokens(4 * 6, 3)
    spatial = {"temporal_sigma": GaussianBlur, "temporal_kernel_size": BoxBlur}
    (cls,) = (cls for name, cls in spatial.items() if hasattr(op, name))
    alone = cls(op.temporal_sigma) if cls is GaussianBlur else cls(op.temporal_kernel_size)
    across = alone.apply(tokens.reshape(4, 18), (4, 1)).reshape(24, 3)
    torch.testing.assert_close(op.apply(tokens, (4, 2, 3)), across)


# --- moving averages ----------------------------------------------------------------------------


@thorough
@given(averages, st.integers(1, 70), st.sampled_from([1, 2, 3]))
def test_a_moving_average_is_the_loop(op, length, rows):
    tokens = random_tokens(2, rows * length, 3)
    decays = op._decays(rows * length)
    torch.testing.assert_close(op.apply(tokens, (rows, length)), average_by_loop(tokens, decays))


@pytest.mark.parametrize("decay", [0, 1e-12, 0.05, 0.5, 0.95, 0.9999, 1 - 1e-12, 1])
@pytest.mark.parametrize("end", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("grid", [(32, 32), (1, 997), (40, 25)])
def test_a_long_moving_average_in_float32_is_the_loop_in_float64(decay, end, grid):
    op = EMASmoothing(decay, end, "cosine")
    tokens = random_tokens(math.prod(grid), 2)
    expected = average_by_loop(tokens, op._decays(len(tokens)))
    result = op.apply(tokens.float(), grid)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=5e-6)


def test_the_decay_is_the_alpha_of_the_studys_code():
    """`y_t = alpha y_(t-1) + (1 - alpha) x_t`."""
    x, alpha = random_tokens(7, 1), 0.95
    y = [x[0]]
    for t in range(1, 7):
        y.append(alpha * y[-1] + (1 - alpha) * x[t])
    torch.testing.assert_close(EMASmoothing(alpha).apply(x, (1, 7)), torch.stack(y))


def test_the_decay_is_one_minus_the_beta_of_the_studys_text():
    """`y_t = beta x_t + (1 - beta) y_(t-1)`."""
    x, beta = random_tokens(7, 1), 0.95
    y = [x[0]]
    for t in range(1, 7):
        y.append(beta * x[t] + (1 - beta) * y[-1])
    torch.testing.assert_close(EMASmoothing(1 - beta).apply(x, (1, 7)), torch.stack(y))


def test_a_moving_average_runs_along_rows_and_on_to_the_next_row():
    x = torch.zeros(6, 1)
    x[2] = 1  # the last token of the first row of a 2 x 3 grid
    smoothed = EMASmoothing(0.5).apply(x, (2, 3)).flatten()
    torch.testing.assert_close(smoothed, torch.tensor([0, 0, 0.5, 0.25, 0.125, 0.0625]))


@pytest.mark.parametrize("ramp", RAMPS)
def test_a_ramp_goes_from_the_first_decay_to_the_last(ramp):
    decays = EMASmoothing(0.9, 0.3, ramp)._decays(11)
    assert decays[0] == pytest.approx(0.9) and decays[-1] == pytest.approx(0.3)
    assert (decays.diff() < 0).all()
    middle = {"linear": 0.6, "quadratic": 0.75, "cosine": 0.6}[ramp]
    assert decays[5] == pytest.approx(middle)


def test_a_full_decay_repeats_the_first_token():
    x = random_tokens(12, 2)
    torch.testing.assert_close(EMASmoothing(1).apply(x, (3, 4)), x[:1].expand(12, 2))


# --- composition --------------------------------------------------------------------------------


@thorough
@given(operators, operators, st.tuples(sides, sides))
def test_the_matrix_of_a_product_is_the_product_of_the_matrices(a, b, grid):
    torch.testing.assert_close((a @ b).matrix(grid), a.matrix(grid) @ b.matrix(grid))
    assert a @ b == Compose(b, a)


def test_compositions_are_unfolded():
    a, b, c = GaussianBlur(1), BoxBlur(3), EMASmoothing(0.5)
    assert Compose(a, Compose(b, c)) == Compose(a, b, c) == c @ (b @ a) == (c @ b) @ a


# --- dtypes, gradients, modes -------------------------------------------------------------------

some = [
    GaussianBlur(2),
    GaussianBlur(INF),
    BoxBlur(5, 0.9),
    EMASmoothing(0.9),
    EMASmoothing(0.9, 0.1, "quadratic"),
    GaussianBlur(1, padding="symmetric") @ EMASmoothing(0.3),
]


@pytest.mark.parametrize("op", some, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_tokens_and_its_accuracy(op, dtype):
    tokens = random_tokens(2, 3, 96, 5).to(dtype)
    result = op.apply(tokens, (8, 12))
    assert result.dtype == dtype and result.shape == tokens.shape
    error = (result.double() - op.matrix((8, 12)) @ tokens.double()).abs().max()
    assert error < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("op", some, ids=str)
def test_large_values_in_half_precision_do_not_overflow(op):
    tokens = torch.full((1, 1024, 2), 60000.0, dtype=torch.float16)
    torch.testing.assert_close(op.apply(tokens, (32, 32)), tokens)


@pytest.mark.parametrize("op", some, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_are_right(op, transposed):
    tokens = random_tokens(1, 6, 2, 2) if transposed else random_tokens(1, 2, 6, 2)
    tokens.requires_grad_()

    def apply(x):
        return op.apply(x.transpose(1, 2) if transposed else x, (2, 3))

    assert torch.autograd.gradcheck(apply, (tokens,))


@pytest.mark.parametrize("op", some, ids=str)
def test_matrices_made_in_inference_mode_serve_autograd_later(op):
    smoothing.clear_cache()
    tokens = random_tokens(12, 2)
    with torch.inference_mode():
        op.apply(tokens, (3, 4))
    tokens.requires_grad_()
    op.apply(tokens, (3, 4)).sum().backward()
    torch.testing.assert_close(tokens.grad, op.matrix((3, 4)).sum(0)[:, None].expand(12, 2))


@pytest.mark.parametrize("op", some, ids=str)
def test_autocast_does_not_change_the_result(op):
    tokens = random_tokens(1, 12, 2, dtype=torch.float32)
    expected = op.apply(tokens, (3, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = op.apply(tokens, (3, 4))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("op", some, ids=str)
def test_the_default_dtype_and_device_do_not_change_the_matrix(op):
    expected = op.matrix((3, 4))
    smoothing.clear_cache()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            result = op.matrix((3, 4))
            applied = op.apply(random_like_ones(), (3, 4))
    finally:
        torch.set_default_dtype(torch.float32)
    assert result.dtype == torch.float64 and result.device.type == "cpu"
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(applied, torch.ones(12, 2))


def random_like_ones():
    return torch.ones(12, 2, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("op", some, ids=str)
@pytest.mark.parametrize("grid", [(3, 4), (1, 12), (2, 2, 3), (1, 1)])
def test_the_tokens_given_are_not_changed(op, grid):
    tokens = random_tokens(2, math.prod(grid), 3)
    before = tokens.clone()
    result = op.apply(tokens, grid)
    if result is not tokens:
        result.add_(1)
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("op", some, ids=str)
def test_head_transposed_tokens_keep_their_layout(op):
    tokens = random_tokens(2, 12, 3, 4).transpose(1, 2)
    assert tokens.stride() == (144, 4, 12, 1)
    if not op.is_uniform((3, 4)):
        assert op.apply(tokens, (3, 4)).stride() == tokens.stride()


def test_a_slice_of_a_fused_projection_is_smoothed_as_it_lies():
    q, _, _ = random_tokens(2, 12, 3, 5, 4).unbind(2)  # (B, T, heads, d), strided
    q = q.transpose(1, 2)
    for op in some:
        torch.testing.assert_close(op.apply(q, (3, 4)), op.matrix((3, 4)) @ q)


@pytest.mark.parametrize("op", some, ids=str)
def test_an_empty_batch_stays_empty(op):
    assert op.apply(torch.zeros(0, 2, 12, 4), (3, 4)).shape == (0, 2, 12, 4)


@pytest.mark.parametrize("op", some, ids=str)
def test_tokens_without_data_keep_their_shape(op):
    tokens = torch.zeros(2, 3, 12, 4, device="meta")
    assert op.apply(tokens, (3, 4)).shape == tokens.shape


def test_tokens_may_be_a_plain_matrix():
    tokens = random_tokens(12, 3)
    torch.testing.assert_close(
        GaussianBlur(1).apply(tokens, (3, 4)), GaussianBlur(1).matrix((3, 4)) @ tokens
    )


# --- the cache ----------------------------------------------------------------------------------


def test_the_cache_is_bounded_and_can_be_cleared():
    smoothing.clear_cache()
    tokens = torch.zeros(6, 1)
    for n in range(1, 300):
        GaussianBlur(n / 10).apply(tokens, (2, 3))
        EMASmoothing(n / 300).apply(tokens, (2, 3))
    for held, bound in smoothing.cache_info().values():
        assert 0 < held <= bound <= 128
    smoothing.clear_cache()
    assert all(held == 0 for held, _ in smoothing.cache_info().values())


def test_equal_operators_share_their_matrices():
    smoothing.clear_cache()
    tokens = torch.zeros(6, 1)
    for _ in range(3):
        GaussianBlur(2).apply(tokens, (2, 3))
    assert smoothing.cache_info()["separable"][0] == 1


# --- wrong input --------------------------------------------------------------------------------


@pytest.mark.parametrize("op", some, ids=str)
def test_a_wrong_number_of_tokens_is_an_error_that_tells_both_numbers(op):
    with pytest.raises(ValueError, match=r"grid \(3, 4\) holds 12 tokens.*\(1, 13, 2\)"):
        op.apply(torch.zeros(1, 13, 2), (3, 4))


@pytest.mark.parametrize("grid", [(12,), (1, 1, 3, 4), (0, 4), (-3, -4), ()])
def test_a_wrong_grid_is_an_error(grid):
    for op in some:
        for call in (op.matrix, op.is_uniform, op.is_identity):
            with pytest.raises(ValueError, match=r"\(H, W\) or \(F, H, W\)"):
                call(grid)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_tokens_that_are_not_real_numbers_are_an_error(dtype):
    for op in some:
        with pytest.raises(TypeError, match="floating-point"):
            op.apply(torch.zeros(12, 2, dtype=dtype), (3, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianBlur(-1), r"sigma must lie in \[0, inf\].*got -1"),
        (lambda: GaussianBlur(math.nan), r"sigma must lie in \[0, inf\].*got nan"),
        (lambda: GaussianBlur(1, temporal_sigma=-2), r"temporal_sigma must lie.*got -2"),
        (lambda: GaussianBlur(1, 4), r"kernel_size must be a positive odd integer.*got 4"),
        (lambda: GaussianBlur(1, 0), r"kernel_size must be a positive odd integer.*got 0"),
        (lambda: GaussianBlur(INF, 5), r"BoxBlur\(5\)"),
        (lambda: GaussianBlur(1, padding="mirror"), "'reflect', 'symmetric'.*got 'mirror'"),
        (lambda: BoxBlur(-3), r"positive odd integer.*got -3"),
        (lambda: BoxBlur(3, 1.5), r"alpha must lie in \[0, 1\]; got 1.5"),
        (lambda: BoxBlur(3, math.nan), r"alpha must lie in \[0, 1\]; got nan"),
        (lambda: BoxBlur(3, temporal_kernel_size=2), r"temporal_kernel_size must be.*got 2"),
        (lambda: BoxBlur(3, padding="edge"), "'zeros'; got 'edge'"),
        (lambda: EMASmoothing(1.01), r"decay must lie in \[0, 1\]; got 1.01"),
        (lambda: EMASmoothing(0.5, -1), r"end_decay must lie in \[0, 1\]; got -1"),
        (lambda: EMASmoothing(0.5, 0.1, "cubic"), "'linear', 'quadratic', 'cosine'; got 'cubic'"),
        (lambda: Compose(), "at least two smoothings; got 0"),
    ],
)
def test_a_value_outside_its_set_is_an_error_that_names_it_and_the_set(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianBlur("10"),
        lambda: GaussianBlur(None),
        lambda: GaussianBlur(True),
        lambda: GaussianBlur(1, 3.0),
        lambda: BoxBlur(3.5),
        lambda: BoxBlur(True),
        lambda: EMASmoothing([0.5]),
        lambda: Compose("gaussian:1"),
        lambda: GaussianBlur(1) @ 3,
    ],
)
def test_a_value_of_the_wrong_type_is_a_type_error(make):
    with pytest.raises(TypeError):
        make()


@thorough
@given(st.floats(0.2, 5), st.integers(2, 9))
def test_a_wider_kernel_than_the_axis_is_limited_to_it(sigma, n):
    assume(n % 2 == 1)
    torch.testing.assert_close(
        GaussianBlur(sigma, 99).matrix((n, n)), GaussianBlur(sigma, n).matrix((n, n))
    )


@thorough
@given(anything | st.builds(GaussianBlur, st.sampled_from([0, 0.1, 1 / 6, 0.17, 1.0])))
def test_what_changes_nothing_is_the_identity_on_every_grid(op):
    # On 8 tokens an axis no kernel is cut for lack of neighbours.
    assert op.changes_nothing == op.is_identity((8, 8, 8))
    assert not op.changes_nothing or op.is_identity((3, 5))
