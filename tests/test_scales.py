"""Scales that change over the steps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.schedule.scales import (
    CosineScale,
    LinearScale,
    ScaleTable,
    as_scale,
    scale_at,
)
from smoothed_energy.schedule.steps import StepPosition

numbers = st.floats(-1, 50)
positions = st.integers(1, 60).flatmap(
    lambda count: st.integers(0, count - 1).map(lambda index: StepPosition(index, count))
)
schedules = st.one_of(
    st.builds(LinearScale, numbers, numbers),
    st.builds(CosineScale, numbers, numbers),
    st.lists(numbers, min_size=1, max_size=6).map(lambda values: ScaleTable(*values)),
)


@given(schedules, positions)
def test_a_scale_stays_between_the_numbers_it_is_made_of(scale, position):
    slack = 1e-9 * max(map(abs, scale.values))
    assert min(scale.values) - slack <= scale.at(position) <= max(scale.values) + slack


@given(schedules | numbers)
def test_texts_are_read_back(scale):
    assert as_scale(str(scale)) == scale
    assert as_scale(scale) == scale


@given(numbers, numbers, st.integers(2, 40))
def test_ramps_go_from_the_first_step_to_the_last(start, stop, count):
    for ramp in (LinearScale(start, stop), CosineScale(start, stop)):
        assert ramp.at(StepPosition(0, count)) == start
        assert math.isclose(ramp.at(StepPosition(count - 1, count)), stop, abs_tol=1e-9)
        assert ramp.at(StepPosition(0, 1)) == start


def test_the_formulas():
    quarter = StepPosition(1, 5)
    assert LinearScale(4, 0).at(quarter) == 3
    assert math.isclose(CosineScale(4, 0).at(quarter), 2 + 2 * math.cos(math.pi / 4))
    table = ScaleTable(3, 2, 1)
    assert [table.at(StepPosition(i, 6)) for i in range(6)] == [3, 3, 2, 2, 1, 1]
    assert scale_at(2.5, quarter) == 2.5
    assert as_scale("2.5") == 2.5


@pytest.mark.parametrize(
    "make",
    [
        ScaleTable,
        lambda: LinearScale(math.nan, 1),
        lambda: CosineScale(1, -2),
        lambda: as_scale("sine:1:2"),
        lambda: as_scale("linear:1:2:3"),
    ],
)
def test_what_is_no_scale_is_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()
