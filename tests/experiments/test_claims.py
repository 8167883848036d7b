"""Verdicts rest on paired intervals, and only those that leave out 0 decide."""

import pytest
import torch

from smoothed_energy.evaluation import Resampling
from smoothed_energy.experiments.claims import Claim, verdict, verdicts
from smoothed_energy.experiments.measured import Measured, SetColumn
from smoothed_energy.experiments.row import UNGUIDED, Row
from smoothed_energy.report.page import Number

CLAIM = Claim("a is lower than b", "here", "a", "b")


@pytest.mark.parametrize(
    ("low", "high", "claimed", "expected"),
    [
        (-2.0, -1.0, "lower", "holds"),
        (-2.0, -1.0, "higher", "does not hold"),
        (1.0, 2.0, "lower", "does not hold"),
        (1.0, 2.0, "higher", "holds"),
        (-1.0, 1.0, "lower", "can't be told"),
        (0.0, 1.0, "lower", "can't be told"),
        (None, None, "lower", "can't be told"),
    ],
)
def test_an_interval_decides_only_if_it_leaves_out_0(low, high, claimed, expected):
    claim = Claim("a claim", "here", "a", "b", claimed=claimed)
    value = 0.5 if low is None else (low + high) / 2
    assert verdict(claim, Number(value, low, high)).verdict == expected


def measured(first, second, resampling=Resampling(50)):  # noqa: B008 - immutable
    """Two rows whose number is the mean of some numbers per sample."""
    numbers = {"a": torch.as_tensor(first), UNGUIDED.label: torch.as_tensor(second)}
    count = len(numbers["a"])
    halves = [*resampling.halves(count)]
    return Measured(
        (Row("a"), UNGUIDED),
        count,
        [SetColumn("mean", "mean", "of numbers", "lower")],
        resampling,
        "nothing",
        {(label, "mean"): float(each.mean()) for label, each in numbers.items()},
        {
            (label, "mean"): torch.stack([each[half].mean() for half in halves])
            for label, each in numbers.items()
        },
    )


def test_a_difference_is_paired():
    """Rows that vary much together differ little, and surely."""
    generator = torch.Generator().manual_seed(0)
    common = 100 * torch.randn(40, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(40, generator=generator, dtype=torch.float64)
    found = measured(common - 1 + noise, common)
    difference = found.difference("a", UNGUIDED.label, "mean")
    assert difference.value == pytest.approx(float((noise - 1).mean()))
    assert difference.high < 0
    # Unpaired, the intervals of the rows overlap by far.
    row, other = found.number("a", "mean"), found.number(UNGUIDED.label, "mean")
    assert row.high - row.low > 10
    assert row.low < other.value < row.high
    claim = Claim("a is lower", "here", "a", UNGUIDED.label, "mean")
    assert [one.verdict for one in verdicts(found, [claim])] == ["holds"]


def test_halves_give_the_standard_error_of_a_mean():
    """For a mean, the interval of random halves is that of the normal theory."""
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(400, generator=generator, dtype=torch.float64)
    found = measured(numbers, numbers, Resampling(2000)).number("a", "mean")
    expected = 2 * 1.96 * float(numbers.std()) / 20
    assert found.high - found.low == pytest.approx(expected, rel=0.08)


def test_a_row_compared_with_itself_is_said_to_be():
    claim = Claim("the same", "here", "a", "a", "mean")
    found = verdicts(measured([1.0] * 8, [2.0] * 8), [claim])
    assert found[0].verdict == "can't be told"
    assert "nothing to compare" in found[0].because


def test_the_table_has_the_difference_to_the_unguided_row():
    found = measured([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]).table("a caption")
    assert [column.name for column in found.columns] == ["row", "mean", "difference to unguided"]
    assert [row[0] for row in found.rows] == ["a", "unguided"]
    assert found.rows[0][2].value == -1.0
    assert found.rows[1][2] is None
    assert "4 samples a row" in found.note


def test_unmeasured_metrics_are_refused():
    with pytest.raises(ValueError, match="'frechet' was not measured; measured were mean"):
        measured([1.0] * 4, [1.0] * 4).column("frechet")
    with pytest.raises(ValueError, match="mean of the row 'c' was not measured"):
        measured([1.0] * 4, [1.0] * 4).difference("c", "a", "mean")


def test_numbers_are_drawn_over_rows_with_the_unguided_one_as_a_guide():
    found = measured([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0])
    plot = found.plot_over([Row("a"), UNGUIDED], "sigma", ["1", "∞"], "a caption")
    assert "unguided" in plot.svg
    assert "sigma" in plot.svg
    assert [row[0] for row in plot.data.rows] == ["1", "∞"]
