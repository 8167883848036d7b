"""Where pictures stand in the grids of figures."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from smoothed_energy.experiments.drawn import Drawn, Sample
from smoothed_energy.experiments.pictures import picture_grid
from smoothed_energy.experiments.seg_figures import _side_axes, _sides
from smoothed_energy.experiments.subject import AVATARS


@pytest.fixture
def drawn(tmp_path):
    """The pictures of queries and keys, without a model."""
    subject = replace(AVATARS, sigmas=("gaussian:1", "gaussian:inf"))
    rows = _sides(SimpleNamespace(subject=subject))
    samples = (Sample(0), Sample(1))
    paths = {}
    for row in rows:
        paths[row.label] = [tmp_path / f"{row.label}-{sample.seed}.png" for sample in samples]
        for path in paths[row.label]:
            Image.new("RGB", (2, 2)).save(path)
    return Drawn(tuple(rows), samples, paths, {row.label: [{}, {}] for row in rows})


def test_queries_and_keys_both_begin_with_the_unguided_picture(drawn):
    grid = picture_grid(drawn, "Queries or keys", "", axes=_side_axes)
    places = [
        tuple(cell.axes[name] for name in ("blurred", "sigma", "seed")) for cell in grid.cells
    ]
    assert sorted(places) == sorted(
        (side, sigma, seed)
        for side in ("query", "key")
        for sigma in ("none", "1", "inf")
        for seed in "01"
    )
    assert {cell.label for cell in grid.cells if cell.axes["sigma"] == "none"} == {"unguided"}
    assert (grid.rows, grid.columns) == ("seed", "sigma")


def test_the_axes_of_a_grid_can_be_named(drawn):
    grid = picture_grid(drawn, "", "", axes=_side_axes, rows="blurred", columns="seed")
    assert (grid.rows, grid.columns) == ("blurred", "seed")
