import random

import pytest

pytest.importorskip("tokenizers")

from training.captions import caption, describe
from training.drawing import jobs, seed_of
from training.styles import BACKGROUNDS, HAIR, SKIN, STYLES


def some_attributes(style, rng):
    """A report as DiceBear's: one drawn value for each attribute."""
    attributes = {name: rng.choice(list(values)) for name, values in style.phrases.items()}
    for name, palette in style.colors.items():
        attributes[name] = "#" + rng.choice(list(palette.values()))
    attributes["primaryBackgroundColor"] = "#" + rng.choice(list(BACKGROUNDS.values()))
    return attributes


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_every_value_that_can_be_drawn_has_words(style):
    rng = random.Random(0)
    for _ in range(200):
        phrases = describe(style, some_attributes(style, rng))
        assert "{}" not in " ".join(phrases.values())
        assert "a orange" not in " ".join(phrases.values())


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_captions_are_deterministic(style):
    attributes = some_attributes(style, random.Random(1))
    first = [caption(style.name, attributes, random.Random(i)) for i in range(20)]
    second = [caption(style.name, attributes, random.Random(i)) for i in range(20)]
    assert first == second
    assert len(set(first)) > 5


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_captions_say_only_what_was_drawn(style):
    rng = random.Random(2)
    for _ in range(100):
        attributes = some_attributes(style, rng)
        phrases = describe(style, attributes)
        text = caption(style.name, attributes, rng)
        rest = text
        for phrase in sorted(phrases.values(), key=len, reverse=True):
            rest = rest.replace(phrase, "").replace(
                phrase.removeprefix("a ").removeprefix("an "), ""
            )
        spoken = set(rest.replace(",", " ").split())
        filler = {"a", "an", "on", "of", "someone", "with", "wearing", "and", "portrait"}
        assert spoken <= filler | {style.word}, text


def test_an_absent_attribute_is_not_spoken_of():
    attributes = {
        "hair": "mohawk",
        "hairColor": "#" + HAIR["red"],
        "skinColor": "#" + SKIN["tan"],
        "primaryBackgroundColor": "#" + BACKGROUNDS["teal"],
    }
    phrases = describe(STYLES["personas"], attributes)
    assert phrases["hair"] == "a red mohawk"
    assert "facialHair" not in phrases
    assert phrases["background"] == "a teal background"


def test_splits_share_no_seed():
    train = {seed_of("train", i) for i in range(2000)}
    heldout = {seed_of("heldout", i) for i in range(2000)}
    assert len(train) == len(heldout) == 2000
    assert not train & heldout


def test_jobs_take_the_styles_in_turn_and_do_not_depend_on_where_they_start():
    every = jobs("train", 0, 9, ["personas", "dylan"])
    assert [j["style"] for j in every[:3]] == ["personas", "dylan", "personas"]
    assert jobs("train", 4, 9, ["personas", "dylan"]) == every[4:]


@pytest.mark.parametrize(
    ("split", "styles", "message"),
    [("test", ["dylan"], "heldout"), ("train", ["initials"], "personas")],
)
def test_unknown_splits_and_styles_list_the_known(split, styles, message):
    with pytest.raises(ValueError, match=message):
        jobs(split, 0, 1, styles)
