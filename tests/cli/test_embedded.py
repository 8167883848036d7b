"""The command line on the model that ships inside the package."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from smoothed_energy.models.edges import canny
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


def edge_distance(edges, picture):
    """How far the white pixels of `edges` are from the picture's edges, in pixels, at most 5."""
    found = canny(picture.astype(np.uint8), low=50, high=100)[..., 0] > 0
    rows, columns = np.nonzero(edges[..., 0])
    others = np.argwhere(found)
    gaps = np.abs(others[None] - np.stack([rows, columns], axis=1)[:, None]).max(axis=-1)
    return np.minimum(gaps.min(axis=1), 5).mean()


def test_edges_are_followed(run, tmp_path):
    steps = ("--num-inference-steps", 12)
    code, _, err = run("generate", "--seed", 3, *steps, "--out", "source")
    assert code == 0, err
    run("generate", *steps, "--out", "free")
    source = tmp_path / "source/no-prompt-seed3.png"
    code, _, err = run("generate", *steps, "--canny", source, "--out", "controlled")
    assert code == 0, err
    edges = pixels(tmp_path / "controlled/no-prompt-edges.png")
    free = edge_distance(edges, pixels(tmp_path / "free/no-prompt-seed0.png"))
    controlled = edge_distance(edges, pixels(tmp_path / "controlled/no-prompt-seed0.png"))
    print(f"\n{controlled:.2f} pixels, without control {free:.2f}")
    assert controlled < 0.6 * free
    # Another picture of the same outline, and not the same picture.
    assert abs(pixels(source) - pixels(tmp_path / "controlled/no-prompt-seed0.png")).mean() > 5
