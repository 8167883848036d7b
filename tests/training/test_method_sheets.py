"""The ControlNet's sheet shows nothing that the model did not draw."""

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("cv2")

from training.samples import CAPTIONS

from smoothed_energy import guidance_from_text
from smoothed_energy.methods import METHODS
from smoothed_energy.models.edges import canny
from training import method_sheets


def test_the_sources_are_of_all_styles_and_other_seeds_than_the_portraits():
    styles = {caption.split()[1] for caption in method_sheets.SOURCES}
    assert styles == {caption.split()[1] for caption in CAPTIONS}
    assert len(method_sheets.SOURCES) == len(method_sheets.SEEDS)
    assert not set(method_sheets.SOURCE_SEEDS) & set(method_sheets.SEEDS)


def test_the_sheet_of_the_controlnet_needs_no_drawings(tmp_path, monkeypatch):
    sheets = []

    def sheet(series, columns, title, subtitle):
        sheets.append(series)
        return series[0].images[0]

    def drawings(*args, **kwargs):
        raise AssertionError("drawings were read")

    monkeypatch.setattr(np, "load", drawings)
    monkeypatch.setattr(method_sheets, "contact_sheet", sheet)
    monkeypatch.setattr(method_sheets, "SOURCES", CAPTIONS[:2])
    monkeypatch.setattr(method_sheets, "SOURCE_SEEDS", (100, 101))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    method_sheets.main(["--to", str(tmp_path), "--only", "control", "--steps", "2"])

    assert [path.name for path in tmp_path.iterdir()] == ["control.png"]
    (samples, edges, *rows) = sheets[0]
    for sample, edge in zip(samples.images, edges.images, strict=True):
        assert np.array_equal(np.asarray(edge), canny(np.asarray(sample)))
    assert [row.label for row in rows] == [
        "no prompt, unguided",
        "no prompt, SEG",
        "prompt, CFG",
        "prompt, SEG and CFG",
    ]
    pictures = [np.asarray(row.images[0]) for row in (samples, *rows)]
    assert not any(
        np.array_equal(one, other)
        for number, one in enumerate(pictures)
        for other in pictures[:number]
    )


def test_sheets_show_every_method_that_needs_no_second_denoiser():
    shown = {
        guidance_from_text(row.guidance).method
        for sheet in method_sheets.SHEETS.values()
        for row in sheet.rows
        if row.guidance
    }
    ours = {name for name, cls in METHODS.items() if cls.__module__.startswith("smoothed_energy.")}
    assert shown == ours - {"autoguidance"}
