"""Where the image's tokens are in a batch, and how axes of their grid fold into its rows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy import GaussianBlur
from smoothed_energy.denoisers.image_tokens import GridError, ImageTokens, rows_in_order
from smoothed_energy.guidance import AttentionCall
from smoothed_energy.smoothing import BoxBlur, Compose, EMASmoothing

SIZES = st.integers(1, 4)
GRIDS = st.tuples(SIZES, SIZES, SIZES)
FOLDS = st.sampled_from(["frames", "places", None])
SMOOTHINGS = st.sampled_from(
    [
        GaussianBlur(1.0),
        GaussianBlur(0.0, temporal_sigma=1.0),
        GaussianBlur(1.0, temporal_sigma=0.5),
        GaussianBlur(math.inf),
        GaussianBlur(0.0, temporal_sigma=math.inf),
        GaussianBlur(math.inf, temporal_sigma=math.inf),
        GaussianBlur(1.0, padding="zeros", temporal_sigma=1.0),
        BoxBlur(3, alpha=0.5),
        BoxBlur(1, alpha=0.5, temporal_kernel_size=3),
        BoxBlur(3, alpha=0.5, temporal_kernel_size=3),
        EMASmoothing(0.7),
        Compose(GaussianBlur(1.0), GaussianBlur(0.0, temporal_sigma=1.0)),
    ]
)


def layer_tokens(image, rows, heads=2, width=3):
    """Random tokens as a layer has them: `(batch, heads, count, d)`, heads split from channels."""
    batch = rows * math.prod(image.grid) // image.count
    return torch.randn(batch, image.count, heads, width, dtype=torch.float64).transpose(1, 2)


def everything(image, tokens):
    """All tokens of every sample, frames first, one at a time: `(rows, heads, F H W, d)`."""
    frames, height, width = image.grid
    rows = tokens.shape[0] * image.count // math.prod(image.grid)
    samples = []
    for row in range(rows):
        found = []
        for frame in range(frames):
            for place in range(height * width):
                if image.folded == "frames":
                    found.append(tokens[row * frames + frame, :, place])
                elif image.folded == "places":
                    found.append(tokens[row * height * width + place, :, frame])
                else:
                    found.append(tokens[row, :, frame * height * width + place])
        samples.append(torch.stack(found, dim=1))
    return torch.stack(samples)


@given(grid=GRIDS, folded=FOLDS, rows=st.integers(1, 3))
def test_unfold_puts_all_tokens_in_a_row_and_fold_takes_them_back(grid, folded, rows):
    image = ImageTokens(grid, folded=folded)
    tokens = layer_tokens(image, rows)
    unfolded = image.unfold(tokens)
    assert torch.equal(unfolded, everything(image, tokens))
    assert torch.equal(image.fold(unfolded), tokens)


@given(grid=GRIDS, folded=FOLDS)
def test_sequences_and_their_grids_make_up_the_whole(grid, folded):
    image = ImageTokens(grid, folded=folded)
    own, others = image.grids
    assert math.prod(own) == image.count
    assert math.prod(own) * math.prod(others) == math.prod(grid)


@given(grid=GRIDS, folded=FOLDS, rows=st.integers(1, 2), smoothing=SMOOTHINGS)
def test_smoothing_is_the_full_matrix_over_all_tokens(grid, folded, rows, smoothing):
    image = ImageTokens(grid, folded=folded)
    tokens = layer_tokens(image, rows)
    call = AttentionCall(tokens, tokens, tokens, {}, lambda *args: tokens, image, lambda: None)
    smoothed = call.smoothed(tokens, smoothing)
    assert smoothed.shape == tokens.shape
    expected = smoothing.matrix(grid) @ everything(image, tokens)
    assert torch.allclose(everything(image, smoothed), expected)
    if call.makes_uniform(smoothing):
        mean = tokens.mean(dim=-2, keepdim=True).expand_as(tokens)
        assert torch.allclose(smoothed, mean)


@given(grid=GRIDS, folded=FOLDS)
def test_a_uniform_operator_is_known_where_it_mixes_no_sequences(grid, folded):
    image = ImageTokens(grid, folded=folded)
    call = AttentionCall(*[torch.zeros(1)] * 3, {}, lambda *args: None, image, lambda: None)
    assert call.makes_uniform(GaussianBlur(math.inf, temporal_sigma=math.inf)) == (
        folded is None or math.prod(image.grids[1]) == 1
    )
    if folded == "frames":
        assert call.makes_uniform(GaussianBlur(math.inf))
    if folded == "places":
        assert call.makes_uniform(GaussianBlur(0.0, temporal_sigma=math.inf))


@pytest.mark.parametrize("folded", ["frames", "places"])
def test_part_of_a_sample_is_smoothed_where_no_sequences_are_mixed_and_refused_elsewhere(folded):
    image = ImageTokens((3, 2, 4), folded=folded)
    tokens = layer_tokens(image, 1)[:2]
    call = AttentionCall(tokens, tokens, tokens, {}, lambda *args: tokens, image, lambda: None)
    within, across = GaussianBlur(1.0), GaussianBlur(0.0, temporal_sigma=1.0)
    if folded == "places":
        within, across = across, within
    expected = within.matrix(image.grids[0]) @ tokens
    assert torch.allclose(call.smoothed(tokens, within), expected)
    with pytest.raises(GridError, match=f"{folded} of a grid .* no multiple"):
        call.smoothed(tokens, across)


@given(
    starts=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    times=st.integers(1, 3),
    folded=FOLDS,
)
def test_every_row_is_in_the_group_of_its_start(starts, times, folded):
    image = ImageTokens((2, 1, 2), tuple(starts), folded)
    batch = len(starts) * times
    parts = list(image.by_start(batch))
    assert sorted(row for rows, _ in parts for row in rows) == list(range(batch))
    for rows, group in parts:
        for row in rows:
            assert group.start == starts[row // times if folded else row % len(starts)]
    values = torch.arange(batch)
    assert torch.equal(rows_in_order([(rows, values[rows]) for rows, _ in parts]), values)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_batch_that_is_no_multiple_of_the_starts(batch):
    with pytest.raises(GridError, match=f"2 places of image tokens in a batch of {batch} rows"):
        list(ImageTokens((2, 2), (0, 1)).by_start(batch))
