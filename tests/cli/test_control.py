"""``generate --control`` and ``--canny`` on small pipelines with random weights."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from tiny_model import text_to_image

from smoothed_energy.report import read_settings

FAST = ("--num-inference-steps", 2)


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory):
    torch.manual_seed(1)
    network = ControlNetModel.from_unet(
        text_to_image().unet, conditioning_embedding_out_channels=(8, 8, 8)
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    folder = tmp_path_factory.mktemp("controlnets") / "edges"
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def square(tmp_path):
    """A black square on white, wider than what is drawn."""
    pixels = np.full((64, 96, 3), 255, np.uint8)
    pixels[16:48, 32:64] = 0
    path = tmp_path / "square.png"
    Image.fromarray(pixels).save(path)
    return path


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def draw(run, model, controlnet, tmp_path):
    """Draw one image into a folder; returns its pixels and what it remembers."""

    def draw(name, *arguments):
        code, _, err = run("generate", "--model", model, *FAST, "--out", name, *arguments)
        assert code == 0, err
        path = tmp_path / name / "no-prompt-seed0.png"
        return pixels(path), read_settings(path)

    return draw


def test_the_edges_are_found_shown_and_followed(draw, controlnet, square, tmp_path):
    plain, remembered = draw("plain")
    assert "canny" not in remembered
    controlled, remembered = draw("canny", "--canny", square, "--controlnet", controlnet)
    assert (plain != controlled).any()
    assert "canny" not in remembered
    assert re.fullmatch("sha256:[0-9a-f]{64}", remembered["control"])
    assert str(square) not in str(remembered)
    assert remembered["controlnet"] == controlnet
    edges = pixels(tmp_path / "canny" / "no-prompt-edges.png")
    assert edges.shape == (32, 32, 3)
    rows, columns = np.nonzero(edges[..., 0])
    assert {rows.min(), columns.min()} <= {7, 8}
    assert {rows.max(), columns.max()} <= {23, 24}

    # The picture of edges is the same control.
    again, _ = draw(
        "edges",
        "--control",
        tmp_path / "canny" / "no-prompt-edges.png",
        "--controlnet",
        controlnet,
    )
    assert (again == controlled).all()


def test_an_image_repeats_its_run(draw, controlnet, square, tmp_path):
    first, _ = draw("first", "--canny", square, "--controlnet", controlnet, "--control-scale", 0.5)
    second, remembered = draw(
        "second", "--from", tmp_path / "first" / "no-prompt-seed0.png", "--trust"
    )
    assert (first == second).all()
    assert remembered["control_scale"] == 0.5
    stricter, _ = draw(
        *("third", "--from", tmp_path / "first" / "no-prompt-seed0.png", "--trust"),
        *("--control-scale", 1),
    )
    assert (first != stricter).any()


def test_guided_and_unguided_share_the_edges(run, model, controlnet, square, tmp_path):
    code, out, err = run(
        *("generate", "--model", model, *FAST, "--compare", "--count", 2),
        *("--canny", square, "--controlnet", controlnet),
    )
    assert code == 0, err
    assert out.split() == ["out/no-prompt-compare.png"]
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name for name in found if "edges" in name] == ["no-prompt-edges.png"]
    assert len(found) == 6


class TestMistakes:
    @pytest.fixture
    def fails(self, run, model):
        def fails(*arguments):
            code, _, err = run("generate", "--model", model, *FAST, *arguments)
            assert code == 2
            return err

        return fails

    def test_two_pictures(self, fails, square):
        assert "only one" in fails("--control", square, "--canny", square)

    def test_no_such_picture(self, fails, controlnet):
        err = fails("--control", "nothing.png", "--controlnet", controlnet)
        assert "--control nothing.png: there is no such file" in err

    def test_not_a_picture(self, fails, controlnet, tmp_path):
        (tmp_path / "text.png").write_text("no pixels")
        err = fails("--canny", "text.png", "--controlnet", controlnet)
        assert "--canny text.png: not a picture" in err

    def test_a_controlnet_with_nothing_to_follow(self, fails, controlnet):
        assert "expected --control or --canny" in fails("--controlnet", controlnet)

    def test_a_model_without_a_controlnet(self, fails, square, model):
        err = fails("--canny", square)
        assert f"no ControlNet comes with {model}" in err

    def test_no_such_controlnet(self, fails, square):
        err = fails("--canny", square, "--controlnet", "depth")
        assert "no ControlNet 'depth'" in err
        assert "a folder that exists" in err

    def test_a_negative_scale(self, fails, square, controlnet):
        err = fails("--canny", square, "--controlnet", controlnet, "--control-scale", -1)
        assert "--control-scale -1" in err

    def test_a_model_without_text(self, run, unconditional_model, square, controlnet):
        code, _, err = run(
            *("generate", "--model", unconditional_model, *FAST),
            *("--canny", square, "--controlnet", controlnet),
        )
        assert code == 2
        assert "no pipeline with a ControlNet" in err
