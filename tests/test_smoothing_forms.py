"""The smoothing operators as values: equality, representation, text and JSON."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings

from smoothed_energy.smoothing import (
    BoxBlur,
    Compose,
    EMASmoothing,
    GaussianBlur,
    Smoothing,
    as_smoothing,
)
from test_smoothing import anything

INF = inf = math.inf
thorough = settings(max_examples=100, deadline=None)


@thorough
@given(anything)
def test_the_text_reads_back_as_the_same_operator(op):
    assert Smoothing.parse(str(op)) == op


@thorough
@given(anything)
def test_strict_json_reads_back_as_the_same_operator(op):
    text = json.dumps(op.to_dict(), allow_nan=False)
    assert Smoothing.from_dict(json.loads(text)) == op


@thorough
@given(anything)
def test_the_representation_evaluates_to_the_same_operator(op):
    assert eval(repr(op)) == op


@thorough
@given(anything, anything)
def test_operators_are_equal_exactly_if_their_texts_are(a, b):
    assert (a == b) == (str(a) == str(b))
    if a == b:
        assert hash(a) == hash(b)


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (GaussianBlur(10), "gaussian:10"),
        (GaussianBlur(2.5), "gaussian:2.5"),
        (GaussianBlur(INF), "gaussian:inf"),
        (GaussianBlur(10, 31), "gaussian:sigma=10,kernel=31"),
        (GaussianBlur(10, padding="symmetric"), "gaussian:sigma=10,padding=symmetric"),
        (GaussianBlur(10, temporal_sigma=1), "gaussian:sigma=10,temporal=1"),
        (BoxBlur(31), "box:31"),
        (BoxBlur(31, 0.9), "box:31,alpha=0.9"),
        (BoxBlur(31, padding="zeros"), "box:31,padding=zeros"),
        (EMASmoothing(0.95), "ema:0.95"),
        (EMASmoothing(0.95, 0.5, "cosine"), "ema:0.95,end=0.5,ramp=cosine"),
        (Compose(GaussianBlur(1), EMASmoothing(0.5)), "gaussian:1 then ema:0.5"),
    ],
)
def test_the_text_is_short(op, text):
    assert str(op) == text
    assert as_smoothing(text) == op


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("gaussian:sigma=inf", GaussianBlur(INF)),
        ("Gaussian: 10", GaussianBlur(10)),
        (" gaussian:10 , kernel=31 ", GaussianBlur(10, 31)),
        ("gaussian:kernel_size=31,sigma=1e1", GaussianBlur(10, 31)),
        ("box:kernel=3", BoxBlur(3)),
        ("ema:decay=0.5,end_decay=0", EMASmoothing(0.5, 0)),
        ("gaussian:99999", GaussianBlur(INF)),
    ],
)
def test_other_spellings_are_read_too(text, op):
    assert Smoothing.parse(text) == op


@pytest.mark.parametrize(
    "text",
    [
        "",
        "blur",
        "median:3",
        "gaussian",
        "gaussian:",
        "gaussian:ten",
        "gaussian:1,2",
        "gaussian:1,size=3",
        "gaussian:1,sigma=2",
        "box:3.5",
        "gaussian:1 then ",
        "gaussian:1 + ema:0.5",
    ],
)
def test_a_text_without_a_valid_form_is_an_error_that_lists_the_forms(text):
    with pytest.raises(ValueError, match=r'valid forms are "gaussian:10", .*"box:31,alpha=0.9"'):
        Smoothing.parse(text)


@pytest.mark.parametrize("text", ["gaussian:-1", "gaussian:nan", "box:4", "ema:2"])
def test_a_text_with_a_value_outside_its_set_is_an_error_that_names_the_set(text):
    with pytest.raises(ValueError, match="must"):
        Smoothing.parse(text)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "median", "size": 3},
        {"kind": "gaussian", "width": 3},
        {"kind": "gaussian"},
        {"kind": "compose"},
        {"kind": "compose", "operators": [{"kind": "ema", "decay": 0.5}]},
        {"kind": "compose", "operators": 3},
        {"kind": "compose", "operators": ["ema:0.5", "ema:0.5"]},
        {"kind": ["gaussian"], "sigma": 3},
    ],
)
def test_a_mapping_that_describes_no_operator_is_an_error(values):
    with pytest.raises(ValueError):
        Smoothing.from_dict(values)


def test_anything_else_is_no_smoothing():
    for value in (3, None, ["gaussian:1"]):
        with pytest.raises(TypeError, match="operator, a text or a mapping"):
            as_smoothing(value)


def test_a_smoothing_is_read_from_each_of_its_forms():
    op = BoxBlur(3, 0.5)
    assert as_smoothing(op) is op
    assert as_smoothing(str(op)) == as_smoothing(op.to_dict()) == op


def test_operators_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GaussianBlur(1).sigma = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Compose(GaussianBlur(1), BoxBlur(3)).operators = ()


def test_a_whole_number_and_its_float_make_the_same_operator():
    assert GaussianBlur(10) == GaussianBlur(10.0)
    assert repr(GaussianBlur(10)) == "GaussianBlur(sigma=10.0)"
