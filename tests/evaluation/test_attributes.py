"""The vocabulary of attributes, and what captions name."""

import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.evaluation.attributes import NONE, AttributeVocabulary, NamedAttributes

SMALL = AttributeVocabulary(
    {
        "style": ("toon", "bigsmile"),
        "hair": (NONE, "a {} bob", "a {} bob with bangs", "long straight {} hair", "a bald head"),
        "rear hair": (NONE, "long straight hair"),
        "mouth": (NONE, "a smile", "a big smile"),
        "clothing": (NONE, "a {} sweater"),
        "hair color": (NONE, "red", "dark blue"),
        "clothing color": (NONE, "red", "orange"),
        "background": ("a red background", "a dark blue background"),
    },
    {"hair": "hair color", "clothing": "clothing color"},
)


@pytest.mark.parametrize(
    ("caption", "values"),
    [
        ("a toon portrait", {"style": "toon"}),
        ("a portrait", {}),
        ("someone with a red bob", {"hair": "a {} bob", "hair color": "red"}),
        ("dark blue bob with bangs", {"hair": "a {} bob with bangs", "hair color": "dark blue"}),
        ("wearing an orange sweater", {"clothing": "a {} sweater", "clothing color": "orange"}),
        ("a bald head and a big smile", {"hair": "a bald head", "mouth": "a big smile"}),
        ("long straight hair", {"rear hair": "long straight hair"}),
        ("long straight red hair", {"hair": "long straight {} hair", "hair color": "red"}),
        ("someone with a sweater", {"clothing": "a {} sweater"}),
        ("someone with dark blue hair", {"hair color": "dark blue"}),
        ("red clothing", {"clothing color": "red"}),
        ("A Smile. A RED BACKGROUND!", {"mouth": "a smile", "background": "a red background"}),
        ("a bald head, on a dark blue background", None),
    ],
)
def test_phrases_are_found_with_their_colors(caption, values):
    if values is None:
        values = {"hair": "a bald head", "background": "a dark blue background"}
    assert SMALL.parse(caption) == NamedAttributes(values)


def test_phrases_do_not_reach_across_punctuation():
    assert SMALL.parse("red, bob").values == {"hair": "a {} bob"}
    assert SMALL.parse("red, bob").unknown == ("red",)
    assert SMALL.parse("a red bob, with bangs").values["hair"] == "a {} bob"


def test_words_that_name_nothing_are_told():
    found = SMALL.parse("an oil painting of someone with a red bob and a hat")
    assert found.unknown == ("oil", "painting", "hat")
    assert found.values == {"hair": "a {} bob", "hair color": "red"}


def test_what_is_named_last_counts():
    assert SMALL.parse("a smile, a bald head, a big smile").values == {
        "hair": "a bald head",
        "mouth": "a big smile",
    }


@given(st.integers(0, 2**32 - 1))
def test_every_choice_of_values_is_parsed_in_any_order(seed):
    rng = random.Random(seed)
    wanted, phrases = {}, []
    for attribute, values in SMALL.values.items():
        if attribute in SMALL.colors.values() or rng.random() < 0.3:
            continue
        value = rng.choice(values)
        if value == NONE:
            continue
        wanted[attribute] = value
        phrase = f"{value} portrait" if attribute == "style" else value
        if "{}" in value:
            color_attribute = SMALL.colors[attribute]
            color = rng.choice(SMALL.values[color_attribute][1:])
            wanted[color_attribute] = color
            phrase = phrase.replace("{}", color)
        phrases.append(phrase)
    rng.shuffle(phrases)
    assert SMALL.parse(", ".join(phrases)) == NamedAttributes(wanted)
    assert SMALL.parse("someone with " + " and ".join(phrases)) == NamedAttributes(wanted)


def test_json_gives_the_vocabulary_back():
    again = AttributeVocabulary.from_json(json.loads(json.dumps(SMALL.to_json())))
    assert again == SMALL
    assert list(again.values) == list(SMALL.values)


def test_a_phrase_belongs_to_one_attribute():
    with pytest.raises(ValueError, match="'glasses' belongs to eyes and to eyewear"):
        AttributeVocabulary({"eyes": ("glasses",), "eyewear": ("glasses",)})
    with pytest.raises(ValueError, match="eyes has a value twice"):
        AttributeVocabulary({"eyes": ("open", "open")})
    with pytest.raises(ValueError, match=r"'a \{\} hat' of hat has a colour that has no attribute"):
        AttributeVocabulary({"hat": ("a {} hat",)})
    with pytest.raises(ValueError, match="hat is coloured by hat color; expected two of hat"):
        AttributeVocabulary({"hat": ("a {} hat",)}, {"hat": "hat color"})


def test_the_same_color_may_belong_to_several_attributes():
    for hair, clothing in itertools.product(("red", "dark blue"), ("red", "orange")):
        found = SMALL.parse(f"a {hair} bob and a {clothing} sweater").values
        assert (found["hair color"], found["clothing color"]) == (hair, clothing)
