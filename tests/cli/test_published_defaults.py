"""Settings that are published for a model, where none are named."""

import json

import pytest

from smoothed_energy.cli import published
from smoothed_energy.cli.published import with_published
from smoothed_energy.cli.resolve import read_options, resolve_settings
from smoothed_energy.families.advice import Advice
from smoothed_energy.families.unet import UNet

ADVICE = {
    "slg": Advice("slg", "b7.*", "a paper", scale=2.8, steps="0.01:0.2"),
    "pag": Advice("pag", "b13", "another"),
}


@pytest.fixture
def chosen(monkeypatch):
    monkeypatch.setattr(published, "_advice_for_model", lambda model: ADVICE)

    def choose(stored=None, **options):
        given = read_options({"model": "org/model", **options})
        settings = resolve_settings(given, stored or {})
        return with_published(settings, given, stored or {})

    return choose


def test_they_are_used_and_written_out(chosen):
    found = chosen(method="slg")
    assert (found.layers, found.scale, found.steps) == ("b7.*", 2.8, "0.01:0.2")
    again = chosen(json.loads(json.dumps(found.to_dict())))
    assert again == found


def test_what_is_named_counts_more(chosen):
    found = chosen(method="slg; scale=1", layers="b1")
    assert (found.layers, found.scale, found.steps) == ("b1", 1.0, "0.01:0.2")


def test_what_an_image_remembers_stays(chosen):
    stored = json.loads(json.dumps(chosen(method="slg", layers="b2", scale="1").to_dict()))
    assert chosen(stored).layers == "b2"
    assert chosen(stored, method="pag").layers == "b13"


def test_methods_and_models_without(chosen):
    assert chosen(method="tpg").layers == "down"
    assert chosen(method="slg", model="avatars").layers == "m0"


def test_stacked_guidance(chosen):
    found = chosen(stack=["pag; scale=1", "tpg"])
    assert found.stack == ("pag; layers=b13; scale=1", "tpg")


def test_they_are_printed(run, model, monkeypatch):
    code, out, err = run("methods", "--model", "avatars")
    assert code == 0, err
    assert "the model's card" in out
    assert run("layers", model, "--json")[1].count("published") == 1
    monkeypatch.setattr(UNet, "advised", (Advice("pag", "m0", "a paper", scale=2.0),))
    code, out, err = run("methods", "--model", model, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert rows["pag"] == {"layers": "m0", "scale": 2.0, "steps": "begin", "source": "a paper"}
    assert "nobody published" in rows["slg"]["source"]
    code, out, err = run("layers", model)
    assert code == 0, err
    assert "published for pag: layers=m0; scale=2.0 (a paper)" in out
    code, out, err = run("layers", model, "--json")
    assert json.loads(out)["published"]["pag"]["layers"] == "m0"


def test_methods_have_for_the_embedded_model_what_generate_does(run):
    code, out, err = run("methods", "--model", "avatars", "--json")
    assert code == 0, err
    seg = json.loads(out)["seg"]
    assert (seg["layers"], seg["scale"], seg["steps"]) == ("down,mid", 0.7, "all")
