"""The page of `reproduce` in a browser: no complaint, no request, at desktop and phone width."""

from dataclasses import replace

import pytest

from browser_pages import DESKTOP, PHONE
from smoothed_energy.experiments import experiments_named
from smoothed_energy.experiments.reproduce import reproduce
from smoothed_energy.experiments.study import Scope, Study
from smoothed_energy.experiments.subject import AVATARS

# A grid, a table with published numbers and verdicts, lines by step, a logarithmic axis.
NAMES = ("re-figure-1", "re-figure-6", "re-figure-9", "re-table-3")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    few = replace(AVATARS, num_inference_steps=6)
    scope = Scope(samples=4, selection=4, pilots=2, device="cpu")
    study = Study(few, tmp_path_factory.mktemp("study"), scope)
    outcome = reproduce(experiments_named(NAMES), study, command="smoothed-energy reproduce")
    assert not outcome.failed
    return outcome.page


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_opens_without_complaint_or_request(page, size, visit):
    opened = visit(page, size)
    heads = opened.locator("h2, h3").all_text_contents()
    for title in ("When guidance acts", "Frobenius norm", "Divergence", "Cheaper smoothers"):
        assert any(title in head for head in heads), title
    # Published numbers stand in a table of their own.
    assert opened.get_by_text("[Re], Table 3, as published.").count() >= 1
    pictures = opened.locator("img")
    assert pictures.count() >= 5 * len(AVATARS.picture_seeds)
    width = opened.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
