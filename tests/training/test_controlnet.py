"""Training of the ControlNet, on a small model."""

import numpy as np
import pytest
import torch
from training.dataset import ControlledPortraits, Portraits

from smoothed_energy.models.edges import canny


@pytest.fixture(scope="module")
def drawings():
    pixels = np.full((6, 32, 32, 3), 255, np.uint8)
    pixels[:, 8:24, 8:24] = 0
    return pixels


def portraits(count=6):
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((count, 4, 8, 8)).astype(np.float16)
    tokens = np.arange(count * 2 * 4, dtype=np.int16).reshape(count, 2, 4)
    return Portraits(latents, tokens, np.zeros(4, np.int16), std=1.0)


def test_batches_hold_the_edges_of_their_drawings(drawings):
    drawings = drawings.copy()
    drawings[3] = 255  # one drawing has no edges
    controlled = ControlledPortraits(portraits(), drawings)
    latents, _, edges = controlled.batch(0, 6)
    assert edges.shape == (6, 3, 32, 32)
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    order = controlled.portraits.rows(0, 6)
    assert torch.equal(latents, torch.from_numpy(portraits().latents[order]).float())
    assert [bool(edge.any()) for edge in edges] == [row != 3 for row in order]


def test_fewer_drawings_than_latents_are_refused(drawings):
    with pytest.raises(ValueError, match="6 latents but only 4 drawings"):
        ControlledPortraits(portraits(), drawings[:4])


class TestEdges:
    def test_a_square_has_four_sides(self, drawings):
        edges = canny(drawings[0])
        assert edges.shape == (32, 32, 3)
        assert edges.dtype == np.uint8
        assert set(np.unique(edges)) == {0, 255}
        rows, columns = np.nonzero(edges[..., 0])
        assert (rows.min(), rows.max()) in {(7, 23), (7, 24), (8, 23), (8, 24)}
        assert (columns.min(), columns.max()) in {(7, 23), (7, 24), (8, 23), (8, 24)}
        assert not edges[12:20, 12:20].any()

    def test_nothing_has_no_edges(self):
        assert not canny(np.full((16, 16, 3), 90, np.uint8)).any()

    @pytest.mark.parametrize(
        "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)]
    )
    def test_other_pixels_are_refused(self, pixels):
        with pytest.raises(ValueError, match="pixels"):
            canny(pixels)

    def test_thresholds_in_the_wrong_order_are_refused(self, drawings):
        with pytest.raises(ValueError, match="low <= high"):
            canny(drawings[0], low=200, high=100)

    def test_without_opencv_there_is_advice(self, drawings, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "cv2", None)
        with pytest.raises(ImportError, match=r"smoothed-energy\[control\]"):
            canny(drawings[0])
