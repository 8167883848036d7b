"""Settings that suit the models of this package."""

from __future__ import annotations

import pytest

from smoothed_energy.cli.comparison import _guidance_in_words
from smoothed_energy.cli.guidances import guidances_of
from smoothed_energy.cli.resolve import read_options, resolve_settings
from smoothed_energy.cli.suited import _SUITED, suited_settings, suited_text
from smoothed_energy.methods import METHODS, guidance_from_text
from smoothed_energy.models import available


def settings(stored=None, **options):
    return resolve_settings(read_options(options), stored or {})


@pytest.mark.parametrize(("model", "method"), [(m, n) for m in _SUITED for n in _SUITED[m]])
def test_they_are_settings_of_the_method(model, method):
    assert model in available()
    guidance = METHODS[method](**suited_settings(model, method))
    assert guidance != METHODS[method]()


@pytest.mark.parametrize("method", _SUITED["avatars"])
def test_a_method_has_them_and_keeps_what_is_given(method):
    suited = suited_settings("avatars", method)
    (found,) = guidances_of(settings(method=method))
    assert found.scale == suited["scale"]
    (given,) = guidances_of(settings(method=method, scale="2"))
    assert given.scale == 2
    (written,) = guidances_of(settings(method=f"{method}; scale=2"))
    assert written.scale == 2


def test_other_models_have_the_methods_own(model):
    assert guidances_of(settings(method="pag", model=model))[0].scale == METHODS["pag"]().scale


def test_what_is_stacked_has_them_too():
    chosen = settings(stack=["pag", "pag; layers=up", "pag; scale=2", "interval; steps=begin"])
    assert [guidance_from_text(text) for text in chosen.stack] == [
        guidance_from_text(text)
        for text in (
            "pag; scale=0.3",
            "pag; scale=0.3; layers=up",
            "pag; scale=2",
            "interval; steps=begin",
        )
    ]


def test_what_an_image_remembers_is_not_changed():
    assert settings(stored={"stack": ["pag"], "model": "avatars"}).stack == ("pag",)
    assert suited_text("avatars", "interval") == "interval"


def test_sheets_name_the_method():
    assert _guidance_in_words(settings()).startswith("seg   gaussian:1   scale 0.7")
    assert _guidance_in_words(settings(method="pag")).startswith("pag   scale 0.3")
