"""YAML in which texts stay what they look like."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.sweeps.yaml_text import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0:0.33", "0:0.33"),  # the number 0.33 in YAML 1.1
        ("1:30", "1:30"),  # 90
        ("on", "on"),  # true
        ("no", "no"),  # false
        ("0-15", "0-15"),
        ("2024-01-05", "2024-01-05"),  # a date
        ("010", 10),  # 8
        ("1e-3", 0.001),  # a text
        ("-2.5", -2.5),
        (".5", 0.5),
        (".inf", float("inf")),
        ("1_000", "1_000"),  # 1000
        ("7", 7),
        ("true", True),
        ("~", None),
        ("", None),
        ('"7"', "7"),
    ],
)
def test_scalars_are_read_by_yaml_1_2(text, value):
    found = read_yaml(f"key: {text}")["key"]
    assert found == value and type(found) is type(value)


# JSON escapes further characters by two codes, which YAML does not know.
texts = st.text(st.characters(max_codepoint=0xD7FF))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_what_is_written_with_quotes_is_read_again(value):
    import json

    # JSON is YAML.
    assert read_yaml(json.dumps(value)) == value


def test_merged_keys_and_anchors_work():
    text = "one: &a {x: 1, y: 2}\ntwo: {<<: *a, y: 3}"
    assert read_yaml(text)["two"] == yaml.safe_load(text)["two"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' comes twice"),
        ("x:\n  a: 1\n  a: 3", "line 3, column 3: the key 'a' comes twice"),
        ("a: [1, 2", "line 1"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: \x07", "special characters"),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(text)
    assert "\n" not in str(caught.value)
