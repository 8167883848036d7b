"""What ``--from`` may load: told, and only with ``--trust``."""

from __future__ import annotations

import pytest
from hostile import image_with

FAST = ("--num-inference-steps", 2)


@pytest.fixture
def loaded(monkeypatch):
    """The settings of the pipelines that would be loaded; none is."""
    from smoothed_energy.cli import generation

    seen = []

    def stop(settings):
        seen.append(settings)
        raise ValueError("nothing is loaded here")

    monkeypatch.setattr(generation, "open_pipeline", stop)
    return seen


FOREIGN = [
    ({"model": "owner/name"}, "the model 'owner/name'"),
    ({"model": "./folder"}, "the model './folder'"),
    ({"stack": ["autoguidance; weak=o/n"], "scale": 0}, "the weaker denoiser weak='o/n'"),
    ({"method": 'autoguidance; weak="o/n"'}, "the weaker denoiser weak='o/n'"),
]


@pytest.mark.parametrize(("stored", "what"), FOREIGN)
def test_it_is_told_and_loaded_only_if_trusted(run, tmp_path, loaded, stored, what):
    image_with(tmp_path / "a.png", stored)
    code, _, err = run("generate", "--from", "a.png")
    assert code == 2
    assert err == (
        f"error: --from a.png: the image asks to load {what}; expected --trust to allow that, or "
        "options in place of it\n"
    )
    assert loaded == []
    _, _, err = run("generate", "--from", "a.png", "--trust")
    assert err.splitlines()[0] == f"note: loading {what}, as a.png asks"
    assert len(loaded) == 1


@pytest.mark.parametrize(
    ("stored", "options"),
    [
        ({"model": "owner/name"}, ("--model", "avatars")),
        ({"stack": ["autoguidance; weak=o/n"]}, ("--stack", "pag")),
        ({"method": "autoguidance; weak=o/n"}, ("--method", "seg")),
        ({"model": "avatars", "stack": ["pag"]}, ()),
        ({}, ()),
    ],
)
def test_options_in_its_place_and_models_of_this_package_need_no_trust(
    run, tmp_path, loaded, stored, options
):
    image_with(tmp_path / "a.png", stored)
    _, _, err = run("generate", "--from", "a.png", *options)
    assert err == "error: nothing is loaded here\n"
    assert loaded[0].model == "avatars"


def test_what_the_command_line_names_needs_no_trust(run, model):
    code, _, err = run("generate", "--model", model, *FAST)
    assert code == 0, err
