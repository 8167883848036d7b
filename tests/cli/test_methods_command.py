"""``smoothed-energy methods``."""

import json

from smoothed_energy import guidance_from_dict
from smoothed_energy.methods import METHODS


def test_every_method_is_listed_with_its_cost_and_source(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run("methods")
    assert code == 0, err
    for name, cls in METHODS.items():
        (row,) = [line for line in out.splitlines() if line.strip().startswith(f"{name} ")]
        assert cls.about.cost in row
        assert "arXiv" in row


def test_the_defaults_in_json_make_a_guidance(run):
    code, out, err = run("methods", "--json")
    assert code == 0, err
    listing = json.loads(out)
    assert listing.keys() == METHODS.keys()
    for name, entry in listing.items():
        assert guidance_from_dict(entry["defaults"]) == METHODS[name]()
