"""The order in which rows are handed out, and when they are given up."""

from fake_sampler import small_sweep
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.sweeps import plan
from smoothed_energy.sweeps.todo import ATTEMPTS, Todo
from smoothed_energy.sweeps.work import Outcome, Trouble

PLAN = plan(small_sweep(), drawn_by="fake")
FAILED = Outcome(trouble=Trouble.FAILED, reason="no luck")


def done(unit):
    return Outcome(drawn=tuple(row.id for row in unit.rows))


def indices(unit):
    return [row.index for row in unit.rows]


@given(st.sets(st.integers(0, 17)), st.integers(1, 20))
def test_every_missing_row_is_handed_out_once_in_order(missing, size):
    todo = Todo(PLAN, sorted(missing), size)
    assert todo.total == len(missing)
    found = []
    while (unit := todo.take()) is not None:
        assert 1 <= len(unit.rows) <= size
        assert {row.configuration for row in unit.rows} == {unit.configuration.index}
        found += indices(unit)
        todo.report(unit, done(unit))
    assert found == sorted(missing)
    assert not todo.has_more and not [*todo.failures()]


def test_rows_of_a_unit_that_failed_are_tried_again_alone_and_last():
    todo = Todo(PLAN, range(6), 4)
    first, second = todo.take(), todo.take()
    assert todo.take() is None
    todo.report(first, FAILED)
    todo.report(second, done(second))
    tried = []
    while (unit := todo.take()) is not None:
        tried += indices(unit)
        todo.report(unit, FAILED if unit.rows[0].index == 2 else done(unit))
    assert tried == [0, 1, 2, 3] + [2] * (ATTEMPTS - 2)
    (failure,) = todo.failures()
    assert (failure.row.index, failure.reason, failure.attempts) == (2, "no luck", ATTEMPTS)


def test_rows_that_were_drawn_before_a_unit_failed_are_done():
    todo = Todo(PLAN, range(3), 3)
    unit = todo.take()
    drawn = (unit.rows[0].id,)
    todo.report(unit, Outcome(drawn=drawn, trouble=Trouble.FAILED, reason="halfway"))
    assert indices(todo.take()) == [1]


def test_a_hopeless_configuration_is_left_out():
    todo = Todo(PLAN, range(18), 2)
    todo.report(todo.take(), Outcome(trouble=Trouble.HOPELESS, reason="doesn't fit"))
    found = []
    while (unit := todo.take()) is not None:
        found += indices(unit)
        todo.report(unit, done(unit))
    assert found == [*range(6, 18)]
    assert [failure.row.index for failure in todo.failures()] == [*range(6)]
    assert {failure.reason for failure in todo.failures()} == {"doesn't fit"}


def test_a_configuration_of_which_nothing_succeeds_is_given_up():
    sweep = plan(small_sweep(seeds="0-99"), drawn_by="fake")
    todo = Todo(sweep, range(len(sweep)), 1)
    tried = 0
    while (unit := todo.take()) is not None:
        if unit.configuration.index == 0:
            tried += 1
            todo.report(unit, FAILED)
        else:
            todo.report(unit, done(unit))
    assert tried == 5
    assert len([*todo.failures()]) == 200


def test_after_a_stop_nothing_is_handed_out():
    todo = Todo(PLAN, range(18), 1)
    unit = todo.take()
    todo.report(unit, Outcome(trouble=Trouble.DISK_FULL, reason="full"))
    assert todo.take() is None and not todo.has_more and todo.stopped == "full"
