"""The styles: credited, and nothing that a caption speaks of is hidden."""

import re
import shutil
from pathlib import Path

import pytest
from training.credits import ALLOWED, CREDITS, attribution
from training.drawing import drawer, install_drawer
from training.places import default_folder
from training.styles import STYLES

import training


def test_there_are_six_styles_or_more_and_the_first_three_keep_their_places():
    assert len(STYLES) >= 6
    assert list(STYLES)[:3] == ["personas", "toonHead", "dylan"]


def test_every_style_is_credited_under_a_licence_that_allows_it():
    assert list(CREDITS) == list(STYLES)
    assert {credit.licence for credit in CREDITS.values()} <= set(ALLOWED)
    readme = (Path(training.__file__).parent / "README.md").read_text()
    assert attribution() in readme


def test_colours_fill_phrases_and_the_skin_has_a_palette():
    for style in STYLES.values():
        assert style.skin in style.colors
        for attribute, values in style.phrases.items():
            if any("{}" in phrase for phrase in values.values()):
                assert style.colored_by[attribute] in style.colors
        assert style.worn <= style.phrases.keys()


def test_no_colour_stands_for_two_names_in_a_palette():
    for style in STYLES.values():
        for palette in style.colors.values():
            assert len(set(palette.values())) == len(palette)
            assert all(re.fullmatch("[0-9a-f]{6}", code) for code in palette.values())


def test_what_would_hide_a_named_part_is_not_drawn():
    hiding = {"sleepMask", "sunglasses", "faceMask"}
    assert not hiding & STYLES["bigSmile"].phrases["accessories"].keys()
    assert "freddy" not in STYLES["miniavs"].phrases["mustache"]


@pytest.mark.skipif(shutil.which("npm") is None, reason="no Node.js")
@pytest.mark.skipif(
    not (default_folder() / "dicebear" / "node_modules").exists(), reason="nothing was drawn here"
)
def test_the_packages_state_the_credits():
    install = install_drawer(default_folder() / "dicebear")
    (metas,) = drawer(install, {"describe": True, "styles": list(STYLES)})
    for name, credit in CREDITS.items():
        meta = metas[name]
        assert meta["license"]["name"] == credit.licence
        assert (meta["title"], meta["creator"], meta["source"]) == (
            credit.title,
            credit.artist,
            credit.source,
        )
