"""Step selections: which positions they contain, how they combine, how they are written."""

import dataclasses
import math
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothed_energy.schedule.steps import (
    Adaptive,
    AllOf,
    AnyOf,
    EveryNth,
    NoiseLevels,
    StepPosition,
    Steps,
    as_steps,
)

inf = math.inf
thorough = settings(max_examples=40, deadline=None)

fractions = st.one_of(
    st.floats(0, 1), st.integers(0, 12).map(lambda n: n / 12), st.sampled_from([1 / 3, 2 / 3])
)
intervals = st.tuples(fractions, fractions).filter(lambda b: b[0] != b[1]).map(lambda b: sorted(b))
steps = intervals.map(lambda bounds: Steps(*bounds))
levels = st.one_of(st.just(inf), st.floats(0, 1e6), st.floats(0, allow_infinity=False))
noise = (
    st.tuples(levels, levels)
    .filter(lambda b: b[0] != b[1])
    .map(lambda bounds: NoiseLevels(*sorted(bounds)))
)
every = st.integers(1, 9).flatmap(lambda n: st.builds(EveryNth, st.just(n), st.integers(0, n - 1)))
selections = st.recursive(
    st.one_of(steps, noise, every, st.floats(1e-6, 1).map(Adaptive)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: AnyOf(*parts)),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: AllOf(*parts)),
    ),
    max_leaves=5,
)


def positions(count):
    return [StepPosition(index, count, sigma=10.0 / (index + 1)) for index in range(count)]


def indices(selection, count):
    return [p.index for p in positions(count) if as_steps(selection).active(p)]


# --- which steps --------------------------------------------------------------------------------


def test_the_first_third_of_thirty_steps_is_ten_steps():
    assert indices(Steps(0, 1 / 3), 30) == list(range(10))
    assert indices("begin", 30) == list(range(10))
    assert indices("mid", 30) == list(range(10, 20))
    assert indices("end", 30) == list(range(20, 30))
    assert indices("all", 30) == list(range(30))


@pytest.mark.parametrize("count", [*range(1, 120), 250, 999, 1000])
def test_the_thirds_share_out_the_steps_of_every_schedule(count):
    thirds = [indices(name, count) for name in ("begin", "mid", "end")]
    assert list(chain(*thirds)) == list(range(count))
    assert max(map(len, thirds)) - min(map(len, thirds)) <= 1


@thorough
@given(st.lists(fractions, max_size=5, unique=True), st.integers(1, 200))
def test_adjoining_intervals_share_out_the_steps(bounds, count):
    bounds = sorted({0.0, *bounds, 1.0})
    shared = [indices(Steps(a, b), count) for a, b in pairwise(bounds)]
    assert list(chain(*shared)) == list(range(count))


@thorough
@given(st.integers(1, 60), st.integers(0, 59), st.integers(1, 60))
def test_a_bound_on_a_step_is_that_step(count, start, stop):
    start, stop = sorted((start % count, (start + stop) % (count + 1)))
    if start < stop:
        assert indices(Steps(start / count, stop / count), count) == list(range(start, stop))


def test_rounding_loses_no_step():
    assert 0.1 + 0.2 > 0.3 and 1 - 0.7 > 0.3
    assert indices(Steps(0.1 + 0.2, 1), 10) == list(range(3, 10))
    assert indices(Steps(0, 1 - 0.9), 10) == [0]
    assert indices(Steps(0, 0.7 + 0.1), 10) == list(range(8))


def test_noise_levels_are_selected_above_the_low_and_up_to_the_high_one():
    levels = NoiseLevels(0.5, 5)
    active = [levels.active(StepPosition(0, 1, sigma)) for sigma in (0.4, 0.5, 0.6, 5, 5.1, inf)]
    assert active == [False, False, True, True, False, False]
    assert NoiseLevels(1, inf).active(StepPosition(0, 1, inf))


def test_noise_levels_of_a_schedule_without_them_are_an_error():
    with pytest.raises(ValueError, match="sigma:1:2 selects steps by noise level"):
        NoiseLevels(1, 2).active(StepPosition(0, 10))


def test_every_nth_step_starts_at_the_offset():
    assert indices(EveryNth(3), 10) == [0, 3, 6, 9]
    assert indices(EveryNth(3, 2), 10) == [2, 5, 8]
    assert indices(EveryNth(1), 4) == [0, 1, 2, 3]


def test_lists_and_pluses_are_unions_and_ampersands_intersections():
    assert indices(["begin", "end"], 9) == [0, 1, 2, 6, 7, 8]
    assert indices("begin+end", 9) == [0, 1, 2, 6, 7, 8]
    assert indices("begin&every:2", 9) == [0, 2]
    assert indices("(begin+end)&every:2", 9) == [0, 2, 6, 8]
    assert indices("begin+end&every:2", 9) == [0, 1, 2, 6, 8]


@thorough
@given(selections, selections, st.integers(1, 30))
def test_unions_and_intersections_are_those_of_sets(a, b, count):
    assert set(indices(a | b, count)) == set(indices(a, count)) | set(indices(b, count))
    assert set(indices(a & b, count)) == set(indices(a, count)) & set(indices(b, count))


# --- as values ----------------------------------------------------------------------------------


@thorough
@given(selections)
def test_the_text_reads_back_as_the_same_selection(selection):
    assert as_steps(str(selection)) == selection


@thorough
@given(selections)
def test_the_representation_evaluates_to_the_same_selection(selection):
    assert eval(repr(selection)) == selection


@thorough
@given(selections, selections)
def test_equal_selections_have_equal_hashes_and_texts(a, b):
    assert (a == b) == (str(a) == str(b))
    if a == b:
        assert hash(a) == hash(b)


@pytest.mark.parametrize(
    ("text", "selection", "written"),
    [
        ("all", Steps(), "all"),
        ("ALL", Steps(0, 1), "all"),
        ("begin", Steps(0, 1 / 3), "begin"),
        ("mid", Steps(1 / 3, 2 / 3), "mid"),
        ("end", Steps(2 / 3, 1), "end"),
        ("0-0.33", Steps(0, 0.33), "0:0.33"),
        ("0:0.333", Steps(0, 0.333), "0:0.333"),
        ("0 : 1/3", Steps(0, 1 / 3), "begin"),
        (".25:.5", Steps(0.25, 0.5), "0.25:0.5"),
        ("1e-3-0.5", Steps(0.001, 0.5), "0.001:0.5"),
        ("sigma:0.5-5", NoiseLevels(0.5, 5), "sigma:0.5:5"),
        ("sigma:1:inf", NoiseLevels(1, inf), "sigma:1:inf"),
        ("every:2", EveryNth(2), "every:2"),
        ("every:3,offset=1", EveryNth(3, 1), "every:3,offset=1"),
        ("begin+end", AnyOf(Steps(0, 1 / 3), Steps(2 / 3, 1)), "begin+end"),
        ("begin, end", AnyOf(Steps(0, 1 / 3), Steps(2 / 3, 1)), "begin+end"),
        ("begin & every:2", AllOf(Steps(0, 1 / 3), EveryNth(2)), "begin&every:2"),
        ("((begin))", Steps(0, 1 / 3), "begin"),
    ],
)
def test_texts_are_read_and_written(text, selection, written):
    assert as_steps(text) == selection
    assert str(as_steps(text)) == written


def test_selections_of_one_kind_are_unfolded():
    a, b, c = Steps(0, 0.5), EveryNth(2), NoiseLevels(1, 2)
    assert a | (b | c) == (a | b) | c == AnyOf(a, b, c)
    assert a & (b & c) == (a & b) & c == AllOf(a, b, c)
    assert AnyOf(a, b) != AllOf(a, b)


def test_a_selection_is_itself_and_a_list_of_one_its_member():
    selection = Steps(0, 0.5)
    assert as_steps(selection) is selection
    assert as_steps([selection]) is selection
    assert as_steps(["begin", EveryNth(2)]) == Steps(0, 1 / 3) | EveryNth(2)


def test_selections_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Steps().start = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        (Steps() | EveryNth(2)).selections = ()


def test_a_position_holds_integers():
    position = StepPosition(1.0, np.int64(3))
    assert (type(position.index), type(position.count)) == (int, int)
    assert position == StepPosition(1, 3)


def test_the_fraction_of_a_position_is_what_lies_before_it():
    assert StepPosition(0, 4).fraction == 0
    assert StepPosition(3, 4).fraction == 0.75


# --- wrong input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "beginning", "begin+", "+begin", "begin end", "0.5", "every", "every:x", "sigma:1", "(all",
     "all)", "0:0.5:1", "begin&", "every:2,offset", "every:-2", "0..1"],
)  # fmt: skip
def test_an_unknown_text_is_an_error_that_lists_the_forms(text):
    with pytest.raises(ValueError, match=r'unknown steps .*valid are "all", "begin", "mid", "end"'):
        as_steps(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Steps(0.5, 0.2), "must start before they stop; got start=0.5, stop=0.2"),
        (lambda: Steps(0.5, 0.5), "must start before they stop"),
        (lambda: Steps(0, 1.5), r"in \[0, 1\]; got start=0.0, stop=1.5"),
        (lambda: Steps(-0.5, 1), r"in \[0, 1\]; got start=-0.5"),
        (lambda: Steps(math.nan, 1), r"in \[0, 1\]; got start=nan"),
        (lambda: Steps(0, math.nan), r"in \[0, 1\]; got start=0.0, stop=nan"),
        (lambda: as_steps("0.5:0.2"), "must start before they stop"),
        (lambda: as_steps("-0.1:0.2"), r"in \[0, 1\]"),
        (lambda: as_steps("nan:1"), r"in \[0, 1\]"),
        (lambda: as_steps("0:1/0"), r"in \[0, 1\]"),
        (lambda: NoiseLevels(5, 0.5), "from the lower to the higher"),
        (lambda: NoiseLevels(inf, inf), "from the lower to the higher"),
        (lambda: NoiseLevels(-1, 5), r"in \[0, inf\]; got low=-1.0"),
        (lambda: NoiseLevels(math.nan, 5), r"in \[0, inf\]; got low=nan"),
        (lambda: EveryNth(0), "at least 1; got 0"),
        (lambda: EveryNth(3, 3), r"offset must lie in \[0, n\) = \[0, 3\); got 3"),
        (lambda: EveryNth(3, -1), "offset"),
        (lambda: AnyOf(), "at least two"),
        (lambda: AllOf(), "at least two"),
        (lambda: as_steps([]), "empty list selects no steps"),
        (lambda: StepPosition(3, 3), r"in \[0, count\); got 3 of 3"),
        (lambda: StepPosition(0.5, 3), r"index=0.5: expected an integer >= 0"),
        (lambda: StepPosition("0", 3), r"index='0': expected an integer >= 0"),
        (lambda: StepPosition(True, 3), r"index=True: expected an integer >= 0"),
        (lambda: StepPosition(0, 3.5), r"count=3.5: expected an integer >= 0"),
        (lambda: StepPosition(0, 0), r"in \[0, count\); got 0 of 0"),
        (lambda: StepPosition(-1, 3), r"index=-1: expected an integer >= 0"),
        (lambda: StepPosition(0, 3, -1.0), r"in \[0, inf\]; got -1.0"),
        (lambda: StepPosition(0, 3, math.nan), r"in \[0, inf\]; got nan"),
    ],
)
def test_a_value_outside_its_set_is_an_error_that_names_it_and_the_set(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Steps("0", 1),
        lambda: Steps(None),
        lambda: Steps(False, True),
        lambda: NoiseLevels(0, "inf"),
        lambda: EveryNth(2.0),
        lambda: EveryNth(True),
        lambda: AnyOf("begin", "end"),
        lambda: Steps() | "begin",
        lambda: Steps() & 3,
        lambda: as_steps(3),
        lambda: as_steps(None),
        lambda: as_steps({"start": 0}),
        lambda: as_steps([0, 1]),
    ],
)
def test_a_value_of_the_wrong_type_is_a_type_error(make):
    with pytest.raises(TypeError):
        make()
