"""The page of lines names every family and method of the package."""

from pathlib import Path

import pytest

from smoothed_energy.families import families
from smoothed_energy.methods import METHODS

PAGE = (Path(__file__).parents[1] / "docs" / "lines.md").read_text()
ROWS = {line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("|")}


def of_this_package(cls):
    return cls.__module__.startswith("smoothed_energy.")


@pytest.mark.parametrize(
    "names",
    [
        {family.name for family in families() if of_this_package(type(family))},
        {f"`{name}`" for name, cls in METHODS.items() if of_this_package(cls)},
    ],
    ids=["families", "methods"],
)
def test_every_one_is_named(names):
    missing = sorted(names - ROWS)
    assert not missing, "run `python scripts/lines_table.py > docs/lines.md`"
