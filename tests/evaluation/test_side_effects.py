"""Side effects of guidance, beside other packages and numpy."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smoothed_energy.evaluation.side_effects import (
    CHROMA,
    CLIPPED,
    COLOR_SHIFT,
    CONTRAST,
    SATURATION,
    SHARPNESS,
    clipped_share,
    lab,
    luma,
)

cv2 = pytest.importorskip("cv2")

RANDOM = torch.randint(
    0, 256, (2, 3, 17, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
FORMULAS = (SATURATION, CHROMA, CONTRAST, CLIPPED, SHARPNESS)


def pixels(picture):
    return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())


def flat(*color, size=4):
    return torch.tensor(color, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, size, size)


def test_lab_is_that_of_opencv():
    for picture in RANDOM:
        expected = cv2.cvtColor(pixels(picture).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
        found = lab(picture[None])[0].permute(1, 2, 0).numpy()
        # OpenCV interpolates a table in steps of an eighth; about 2 is what eyes can tell apart.
        assert np.abs(found - expected).max() < 0.4


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        # Bruce Lindbloom's calculator, sRGB with D65 and no adaptation.
        ((255, 0, 0), (53.2408, 80.0925, 67.2032)),
        ((0, 255, 0), (87.7347, -86.1827, 83.1793)),
        ((0, 0, 255), (32.2970, 79.1875, -107.8602)),
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
    ],
)
def test_lab_of_known_colors(color, expected):
    found = lab(flat(*color, size=1)).flatten().tolist()
    assert found == pytest.approx(expected, abs=0.03)


def test_saturation_is_that_of_the_standard_library():
    expected = [
        np.mean([colorsys.rgb_to_hsv(*pixel)[1] for pixel in pixels(p).reshape(-1, 3) / 255])
        for p in RANDOM
    ]
    assert SATURATION(RANDOM).tolist() == pytest.approx(expected, abs=1e-12)


def test_chroma_is_that_of_opencv():
    for picture, found in zip(RANDOM, CHROMA(RANDOM), strict=True):
        converted = cv2.cvtColor(pixels(picture).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
        assert float(found) == pytest.approx(
            np.hypot(converted[..., 1], converted[..., 2]).mean(), abs=0.1
        )


def test_luma_and_contrast_are_those_of_grey_pictures():
    for picture, found in zip(RANDOM, CONTRAST(RANDOM), strict=True):
        grey = np.asarray(Image.fromarray(pixels(picture)).convert("L"), dtype=float)
        # PIL rounds luma to bytes.
        assert np.abs(luma(picture[None])[0].numpy() - grey).max() <= 1.0
        assert float(found) == pytest.approx(np.std(grey) / 255, abs=2e-3)
    halves = torch.cat((flat(0, 0, 0), flat(255, 255, 255)), dim=3)
    assert CONTRAST(halves).item() == pytest.approx(0.5)


def test_sharpness_is_the_variance_of_opencv_s_laplacian():
    for picture, found in zip(RANDOM, SHARPNESS(RANDOM), strict=True):
        grey = pixels(picture).astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        inside = cv2.Laplacian(grey, cv2.CV_64F, ksize=1)[1:-1, 1:-1]
        assert float(found) == pytest.approx(inside.var(), rel=1e-12)


def test_clipped_values_are_counted():
    picture = torch.full((1, 3, 2, 5), 100, dtype=torch.uint8)
    picture[0, 0, 0, :2] = torch.tensor([0, 255])
    picture[0, 2, 1, 4] = 254
    assert CLIPPED(picture).item() == pytest.approx(2 / 30)
    assert clipped_share(picture, tolerance=1).item() == pytest.approx(3 / 30)
    for tolerance in (-1, 127):
        with pytest.raises(ValueError, match=f"tolerance is {tolerance}"):
            clipped_share(picture, tolerance=tolerance)


def test_the_shift_is_the_distance_of_mean_colors():
    first, second = RANDOM[:1], RANDOM[1:]
    means = [
        cv2.cvtColor(pixels(p[0]).astype(np.float32) / 255, cv2.COLOR_RGB2Lab).mean((0, 1))
        for p in (first, second)
    ]
    assert COLOR_SHIFT(first, second).item() == pytest.approx(
        np.linalg.norm(means[0] - means[1]), abs=0.1
    )
    assert COLOR_SHIFT(flat(255, 255, 255), flat(0, 0, 0)).item() == pytest.approx(100, abs=1e-9)


def test_the_shift_does_not_see_where_colors_are():
    mirrored = RANDOM.flip(3)
    assert COLOR_SHIFT(RANDOM, mirrored).max() < 1e-9
    assert COLOR_SHIFT(RANDOM[:1], RANDOM[1:]).item() == pytest.approx(
        COLOR_SHIFT(RANDOM[1:], RANDOM[:1]).item()
    )


@settings(max_examples=30)
@given(st.integers(0, 255))
def test_greys_have_no_color_and_no_contrast(value):
    picture = flat(value, value, value)
    assert CHROMA(picture).item() == pytest.approx(0, abs=1e-9)
    assert SATURATION(picture).item() == 0
    assert CONTRAST(picture).item() == pytest.approx(0, abs=1e-12)
    assert SHARPNESS(picture).item() == pytest.approx(0, abs=1e-18)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_numbers_stay_in_their_bounds(seed):
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8, generator=generator)
    extreme = torch.where(picture > 127, 255, 0).byte()
    for metric in FORMULAS:
        low, high = metric.bounds
        for shown in (picture, extreme):
            assert low <= metric(shown).item() <= high


def test_the_highest_chroma_is_that_of_blue():
    corners = torch.cartesian_prod(*[torch.tensor([0, 255], dtype=torch.uint8)] * 3)
    found = torch.cat([CHROMA(flat(*corner)) for corner in corners.tolist()])
    assert corners[found.argmax()].tolist() == [0, 0, 255]
    assert CHROMA.bounds[1] - 1 < float(found.max()) < CHROMA.bounds[1]


def test_more_of_each_effect_is_a_higher_number():
    centred = RANDOM.double() - 127.5
    faint = (127.5 + centred / 3).round().byte()
    grey = RANDOM.double().mean(1, keepdim=True)
    pale = (grey + (RANDOM.double() - grey) / 3).round().byte()
    assert (CONTRAST(faint) < CONTRAST(RANDOM) / 2).all()
    assert (SHARPNESS(faint) < SHARPNESS(RANDOM) / 4).all()
    assert (SATURATION(pale) < SATURATION(RANDOM) / 2).all()
    assert (CHROMA(pale) < CHROMA(RANDOM) / 2).all()


def test_pictures_smaller_than_the_kernel_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 9\) pixels"):
        SHARPNESS(torch.zeros(1, 3, 2, 9, dtype=torch.uint8))
