"""Seeds as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.sweeps.seeds import read_seeds, seeds_text


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        ("0-3,20", (0, 1, 2, 3, 20)),
        (" 7 , 1 - 2 ", (7, 1, 2)),
        (5, (5,)),
        ([77, "3-4", 5867991739709137916], (77, 3, 4, 5867991739709137916)),
        (range(3), (0, 1, 2)),
    ],
)
def test_forms(value, seeds):
    assert read_seeds(value) == seeds


@given(st.lists(st.integers(0, 50) | st.integers(0, 2**63 - 1), min_size=1, unique=True))
def test_the_text_reads_back(seeds):
    assert read_seeds(seeds_text(seeds)) == tuple(seeds)


def test_ranges_are_short():
    assert seeds_text(range(30_000)) == "0-29999"
    assert seeds_text([]) == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1-", "'1-' is no seed"),
        ("-1", "'-1' is no seed"),
        (-1, r"the seed -1 is not in \[0, 2\^63\)"),
        (2**63, "is not in"),
        ("5-3", "the range '5-3' is reversed"),
        ("1,2,1", "the seed 1 comes twice"),
        ([], "are none"),
        ("", "'' is no seed"),
        (True, "expected an integer"),
        (1.5, "expected an integer"),
        (None, "expected an integer"),
    ],
)
def test_what_is_no_seed_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        read_seeds(value)
