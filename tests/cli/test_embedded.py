"""The command line on the model that ships inside the package."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from smoothed_energy.report import read_settings

FAST = ("--num-inference-steps", 4)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_two_words_compare_it_with_and_without_guidance(run, tmp_path):
    code, out, err = run("generate", "--compare", "--count", 2, *FAST)
    assert code == 0, err
    assert out.split() == ["out/no-prompt-compare.png"]
    for seed in range(2):
        plain = pixels(tmp_path / f"out/no-prompt-seed{seed}-unguided.png")
        guided = pixels(tmp_path / f"out/no-prompt-seed{seed}-guided.png")
        assert plain.shape == guided.shape
        assert abs(plain - guided).mean() > 0.5
        assert plain.std() > 10


def test_a_prompt_changes_the_picture(run, tmp_path):
    run("generate", *FAST)
    code, _, err = run("generate", "a portrait of someone with glasses", *FAST)
    assert code == 0, err
    plain = pixels(tmp_path / "out/no-prompt-seed0.png")
    prompted = pixels(tmp_path / "out/a-portrait-of-someone-with-glasses-seed0.png")
    assert abs(plain - prompted).mean() > 1
    settings = read_settings(tmp_path / "out/a-portrait-of-someone-with-glasses-seed0.png")
    assert settings["model"] == "avatars"
    assert settings["cfg"] > 1


def test_pictures_need_not_be_square(run, tmp_path):
    code, _, err = run("generate", "--size", "48x80", "--blur", "gaussian:inf", *FAST)
    assert code == 0, err
    assert pixels(tmp_path / "out/no-prompt-seed0.png").shape == (48, 80, 3)


def test_its_layers_are_listed(run):
    code, out, err = run("layers", "--json")
    assert code == 0, err
    parts = {row["part"] for row in json.loads(out)["layers"]}
    assert parts == {"down", "mid", "up"}
