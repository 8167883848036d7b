"""Checks of settings, and the fields of frozen dataclasses."""

import dataclasses
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from smoothed_energy.settings.checks import (
    SettingTypeError,
    check_choice,
    check_count,
    check_integer,
    check_number,
    check_odd,
    check_positive,
    check_unit,
    number_or_nan,
)
from smoothed_energy.settings.conversion import set_field

no_numbers = [None, True, "1", b"1", [1.0], 1j, np.bool_(True), torch.tensor(True)]
checks_of_numbers = [
    check_number,
    check_positive,
    check_unit,
    check_integer,
    check_odd,
    check_count,
]


def choose(name, value):
    check_choice(name, value, ("a", "b"))


@pytest.mark.parametrize("value", no_numbers, ids=repr)
@pytest.mark.parametrize("check", checks_of_numbers)
def test_what_is_no_number_is_a_type_error_and_a_value_error_that_tells_it(check, value):
    for kind in (TypeError, ValueError, SettingTypeError):
        with pytest.raises(kind, match="width") as caught:
            check("width", value)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (check_positive, 0),
        (check_positive, math.inf),
        (check_positive, math.nan),
        (check_unit, 1.5),
        (check_unit, math.nan),
        (check_odd, 4),
        (check_odd, -1),
        (check_count, 0),
        (check_count, 1.5),
        (check_count, math.inf),
        (choose, "c"),
    ],
)
def test_a_number_or_a_text_outside_its_set_is_a_value_error_and_no_type_error(check, value):
    with pytest.raises(ValueError, match="width") as caught:
        check("width", value)
    assert not isinstance(caught.value, TypeError)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "value", [3, 3.0, np.float32(3), np.int64(3), torch.tensor(3.0), Fraction(3), Decimal(3)]
)
def test_numbers_of_all_types_become_floats(value):
    for number in (check_number("width", value), check_positive("width", value)):
        assert type(number) is float
        assert number == 3


def test_zero_has_no_sign():
    assert str(check_number("width", -0.0)) == "0.0"


def test_integers_become_exact_ints():
    large = 2**60 + 1
    assert check_count("width", large) == check_integer("width", large) == large
    assert check_odd("width", np.int64(5)) == 5
    assert type(check_count("width", 3.0)) is int


@pytest.mark.parametrize("check", [check_integer, check_odd])
def test_a_whole_float_is_no_integer(check):
    with pytest.raises(TypeError, match=r"width.*3\.0"):
        check("width", 3.0)


def test_a_choice_that_is_no_text_is_a_type_error_that_lists_the_choices():
    with pytest.raises(SettingTypeError, match=r"width=3 .*'a', 'b'"):
        choose("width", 3)
    choose("width", "a")


@pytest.mark.parametrize("value", no_numbers, ids=repr)
def test_what_is_no_number_is_not_a_number(value):
    assert math.isnan(number_or_nan(value))


def test_a_field_of_a_frozen_dataclass_is_set_and_another_name_is_an_error():
    @dataclasses.dataclass(frozen=True)
    class Width:
        tokens: float

        def __post_init__(self):
            set_field(self, "tokens", check_number("tokens", self.tokens))

    assert type(Width(3).tokens) is float
    assert dataclasses.replace(Width(3), tokens=4) == Width(4.0)
    with pytest.raises(AttributeError, match="Width has no field 'token'"):
        set_field(Width(3), "token", 3.0)
