"""The table in the docs has every method and every tiny pipeline."""

from pathlib import Path

import methods_by_family
import pytest
from older_versions import are_older

from smoothed_energy.families import families, family_of
from smoothed_energy.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "methods-by-family.md"


def rows():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_columns_are_the_methods():
    assert rows()[0] == ["", *(f"`{method}`" for method in METHODS)]


def test_the_rows_are_the_tiny_pipelines():
    named = [row[0] for row in rows()[1:]]
    found = [case.family for case in methods_by_family.cases()]
    assert [name for name in named if name in found or not are_older()] == found


@pytest.mark.skipif(are_older(), reason="older diffusers or transformers lacks some")
def test_every_family_has_a_tiny_pipeline():
    cases = methods_by_family.cases()
    found = {family_of(getattr(case.pipeline(), case.denoiser)).name for case in cases}
    assert found == {family.name for family in families()}


@pytest.mark.parametrize("case", methods_by_family.cases(), ids=lambda case: case.family)
def test_cells_are_what_happens(case):
    (row,) = (row for row in rows()[1:] if row[0] == case.family)
    for method, cell in zip(METHODS, row[1:], strict=True):
        result, reason = methods_by_family.outcome(method, case)
        word, _, number = cell.rstrip("]").partition(" [")
        assert word == result, f"{method}: {reason}"
        assert bool(reason) == bool(number)
        if reason:
            (quoted,) = (x for x in PAGE.read_text().splitlines() if x.startswith(f"{number}. "))
            assert quoted.replace("\\", "") == f"{number}. {reason}"
