"""``smoothed-energy methods``; run as a program with ``--write``, this file writes its listing."""

import json
import subprocess
import sys

import pytest

from smoothed_energy import guidance_from_dict
from smoothed_energy.cli.methods import LISTING, listing
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
    found = json.loads(out)
    assert found.keys() == METHODS.keys()
    for name, entry in found.items():
        assert guidance_from_dict(entry["defaults"]) == METHODS[name]()


def test_the_stored_listing_is_that_of_the_code():
    assert json.loads(LISTING.read_text()) == json.loads(json.dumps(listing()))


@pytest.mark.parametrize("arguments", [["methods"], ["--help"], ["generate", "--help"]])
def test_what_needs_no_torch_is_answered_without_it(arguments):
    program = (
        f"import sys; from smoothed_energy.cli import main; code = main({arguments!r}); "
        "print('torch' in sys.modules, 'diffusers' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.split() == ["False", "False"]
    assert done.stdout


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit("expected --write")
    LISTING.write_text(json.dumps(listing(), indent=1) + "\n")
