"""Which guided steps have a second pass, as values and texts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.schedule import (
    Drift,
    EarlySteps,
    EveryStep,
    Since,
    StepPosition,
    as_refresh,
)


def no_drift():
    raise AssertionError("asked for the drift")


def passes_of(rule, positions, moved=None):
    """The indices of the steps with a second pass; `moved` are drifts from step to step."""
    found, steps = [], 0
    for index, position in enumerate(positions):
        since = moved and sum(moved[found[-1] + 1 : index + 1]) if found else None
        drift = no_drift if moved is None else lambda since=since: since
        if not found or rule.due(lambda at=position: at, Since(len(found), steps, drift)):
            found.append(index)
            steps = 0
        steps += 1
    return found


def schedule(sigmas):
    return [StepPosition(i, len(sigmas), sigma) for i, sigma in enumerate(sigmas)]


def angles(count):
    """Noise levels at equal steps of the angle, from noise alone."""
    return [math.inf, *[1 / math.tan(math.pi / 2 * i / count) for i in range(1, count)]]


def test_every_third_step_has_one():
    assert passes_of(EveryStep(3), schedule([1.0] * 8)) == [0, 3, 6]


def test_early_steps_are_those_after_the_powers_of_equal_shares():
    # (j / 5) ** 2 * 50 = 0, 2, 8, 18, 32
    assert passes_of(EarlySteps(5), schedule(angles(50))) == [0, 2, 8, 18, 32]
    assert passes_of(EarlySteps(5, power=1), schedule(angles(50))) == [0, 10, 20, 30, 40]


def test_early_steps_go_by_the_noise_and_not_by_the_steps():
    sigmas = angles(50)
    # Three steps where there was one: the passes stay at the same noise levels.
    finer = [
        s for i, s in enumerate(sigmas) for s in ([s] if i < 20 else [s, s * 0.999, s * 0.998])
    ]
    before = [sigmas[i] for i in passes_of(EarlySteps(5), schedule(sigmas))]
    after = [finer[i] for i in passes_of(EarlySteps(5), schedule(finer))]
    assert after == before


def test_early_steps_go_by_the_steps_where_no_noise_is_known():
    assert passes_of(EarlySteps(5), schedule([None] * 50)) == [0, 2, 8, 18, 32]


@given(
    st.lists(st.floats(0, 1e6) | st.just(math.inf), min_size=1, max_size=60),
    st.integers(1, 70),
    st.floats(1, 4),
)
def test_early_steps_are_never_more_than_said(sigmas, count, power):
    found = passes_of(EarlySteps(count, power), schedule(sorted(sigmas, reverse=True)))
    assert found[0] == 0
    assert len(found) <= count + 1
    # The last one may only be at a noise level of 0, where the whole way lies behind.
    assert len(found) <= count or sigmas.count(0) or min(sigmas) < 1e-5


@given(st.integers(1, 40))
def test_many_early_steps_are_all_steps(count):
    assert passes_of(EarlySteps(count**2), schedule(angles(count))) == list(range(count))


def test_the_drift_since_the_last_pass_decides():
    moved = [0, 0.3, 0.1, 0.05, 0.06, 0.01, 0.01, 0.2]
    assert passes_of(Drift(0.1), schedule([1.0] * 8), moved) == [0, 1, 3, 7]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (1, EveryStep()),
        (3, EveryStep(3)),
        ("every:3", EveryStep(3)),
        (" Early : 9 ", EarlySteps(9)),
        ("early:9,power=1.5", EarlySteps(9, 1.5)),
        ("early:9,extrapolate=0.5", EarlySteps(9, extrapolate=0.5)),
        ("early:9,power=1.5,extrapolate=1", EarlySteps(9, 1.5, extrapolate=1)),
        ("early:9,extrapolate=0", EarlySteps(9, extrapolate=0)),
        ("every:3,extrapolate=0.8", EveryStep(3, extrapolate=0.8)),
        ("drift:0.15", Drift(0.15, extrapolate=0.8)),
        ("drift:1e-3 , extrapolate = 0.25", Drift(0.001, extrapolate=0.25)),
    ],
)
def test_rules_are_read_from_texts(text, rule):
    assert as_refresh(text) == rule
    assert as_refresh(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        *("", "3", "every", "every:", "every:x", "late:3", "early:9;power=2", "early:9,power"),
        *(
            "early:9,strength=2",
            "drift:0.1,power=2",
            "every:2,extrapolate=0.5,",
            "early=9",
            "early:9,=1",
        ),
        *("every:0", "every:1.5", "early:0", "early:2.5", "early:9,power=0", "early:nan"),
        *("drift:0", "drift:-1", "drift:inf", "drift:nan", "early:9,extrapolate=1.5"),
        *("early:9,extrapolate=nan", "early:9,power=2,power=3"),
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"expected|valid are|must lie"):
        as_refresh(text)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, [2]])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="every="):
        SmoothedEnergyGuidance(refresh=value)


def test_every_and_refresh_say_the_same_thing():
    assert SmoothedEnergyGuidance(every=3).second_passes == EveryStep(3)
    assert SmoothedEnergyGuidance(refresh=3).second_passes == EveryStep(3)
    with pytest.raises(ValueError, match="every=3 and refresh='early:9' both say"):
        SmoothedEnergyGuidance(every=3, refresh="early:9")
