"""The examples of `docs/reports.md` run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

from sample_page import picture

from smoothed_energy.report.page import Plot

PAGE = Path(__file__).parents[2] / "docs" / "reports.md"


def test_the_examples_write_a_page_and_draw_a_plot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    for i, scale in enumerate(("0", "0.7", "3")):
        for seed in range(4):
            picture(i, seed).save(f"out/scale{scale}-seed{seed}.png")
    first, second = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    exec(first, {})
    page = Path("out/report.html").read_text()
    assert page.count("data:image/png") == 12
    assert "<h1>Does it help?</h1>" in page
    names = {}
    exec(second, names)
    assert isinstance(names["plot"], Plot)
