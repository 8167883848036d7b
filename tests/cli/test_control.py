"""``generate --control`` and ``--canny`` on small pipelines with random weights."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from tiny_model import text_to_image

from smoothed_energy.cli.followed import Followed
from smoothed_energy.models.control_picture import edges_of, read_control_picture
from smoothed_energy.report import read_settings, save_image

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


class TestKept:
    """What is followed is kept in the image, and no path of it."""

    def test_edges_are_followed_again_whatever_the_path_holds_now(
        self, draw, controlnet, square, tmp_path
    ):
        first, _ = draw("first", "--canny", square, "--controlnet", controlnet)
        for change in (lambda: Image.new("RGB", (9, 9)).save(square), square.unlink):
            change()
            source = tmp_path / "first" / "no-prompt-seed0.png"
            again, _ = draw("again", "--from", source, "--trust", "--overwrite")
            assert (first == again).all()

    @pytest.mark.parametrize("mode", ["1", "L", "RGB"])
    def test_a_control_picture_is_followed_again(self, draw, controlnet, tmp_path, mode):
        pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
        first, remembered = draw("a", "--control", "a.png", "--controlnet", controlnet)
        (tmp_path / "a.png").unlink()
        again, also = draw("b", "--from", tmp_path / "a" / "no-prompt-seed0.png", "--trust")
        assert (first == again).all()
        assert remembered == also

    def test_a_sheet_and_the_edges_keep_it_too(self, run, model, controlnet, square, tmp_path):
        arguments = ("--model", model, *FAST, "--compare", "--controlnet", controlnet)
        code, _, err = run("generate", *arguments, "--canny", square)
        assert code == 0, err
        for name in ("compare", "edges"):
            source = tmp_path / "out" / f"no-prompt-{name}.png"
            code, _, err = run("generate", "--from", source, "--trust", "--out", name)
            assert code == 0, err
            for kind in ("guided", "unguided"):
                one, other = (
                    pixels(tmp_path / folder / f"no-prompt-seed0-{kind}.png")
                    for folder in ("out", name)
                )
                assert (one == other).all()

    def test_one_that_is_too_large_is_asked_for(
        self, draw, run, controlnet, square, tmp_path, monkeypatch
    ):
        from smoothed_energy.cli import followed

        monkeypatch.setattr(followed, "_MOST_CHARACTERS", 10)
        first, _ = draw("first", "--canny", square, "--controlnet", controlnet)
        source = tmp_path / "first" / "no-prompt-seed0.png"
        code, _, err = run("generate", "--from", source, "--trust", "--out", "again")
        assert code == 2
        assert "is not kept in it" in err
        assert "expected --control or --canny with that picture" in err
        again, _ = draw("again", "--from", source, "--trust", "--canny", square)
        assert (first == again).all()

    def test_another_picture_in_its_place_is_refused(self, draw, run, controlnet, square, tmp_path):
        draw("first", "--canny", square, "--controlnet", controlnet)
        source = tmp_path / "first" / "no-prompt-seed0.png"
        settings = read_settings(source)
        other = Followed(Image.new("RGB", (32, 32), "white")).as_text()
        save_image(Image.new("RGB", (8, 8)), tmp_path / "a.png", settings, control=other)
        code, _, err = run("generate", "--from", "a.png", "--trust")
        assert code == 2
        assert "is not the one that it followed" in err


def drawing(mode):
    """A square outline as artists and scientists save it."""
    if mode in ("black on transparent", "white on transparent"):
        ink = 0 if mode.startswith("black") else 255
        pixels = np.zeros((32, 32, 4), np.uint8)
        pixels[8:24, 8:24] = [ink, ink, ink, 255]
        return Image.fromarray(pixels)
    most = {"16 bits": 65535, "float of 1": 1.0, "float of 255": 255.0, "8 bits in 16": 200}[mode]
    values = np.zeros((32, 32), np.float32 if "float" in mode else np.uint16)
    values[8:24, 8:24] = most
    return Image.fromarray(values)


class TestPictures:
    @pytest.mark.parametrize(
        "mode",
        [
            "black on transparent",
            "white on transparent",
            "16 bits",
            "8 bits in 16",
            "float of 1",
            "float of 255",
        ],
    )
    def test_its_edges_are_those_of_the_plain_picture(self, tmp_path, mode):
        path = tmp_path / "a.tiff"
        drawing(mode).save(path)
        picture = read_control_picture(path, on_white=True)
        plain = np.zeros((32, 32, 3), np.uint8)
        plain[8:24, 8:24] = 255
        assert edges_of(picture).tobytes() == edges_of(Image.fromarray(plain)).tobytes()

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.full((32, 32), 700, np.uint16), "the same everywhere"),
            (np.arange(1024, dtype=np.uint16).reshape(32, 32) * 3, "no edges are found in it"),
            (np.full((32, 32), np.nan, np.float32), "its brightness is from nan"),
            (np.full((32, 32), -1, np.float32), "its brightness is from -1 to -1"),
            (np.zeros((32, 32, 4), np.uint8), "the same everywhere"),
        ],
    )
    def test_what_has_no_edges_is_refused_and_not_drawn_without(
        self, run, model, controlnet, tmp_path, values, message
    ):
        Image.fromarray(values).save(tmp_path / "a.tiff")
        code, out, err = run(
            *("generate", "--model", model, "--canny", "a.tiff", "--controlnet", controlnet)
        )
        assert (code, out) == (2, "")
        assert err.startswith("error: --canny a.tiff: ")
        assert message in err
        assert err.count("\n") == 1

    def test_white_lines_on_nothing_are_edges_as_they_are(self, tmp_path):
        drawing("white on transparent").save(tmp_path / "a.png")
        found = np.asarray(read_control_picture(tmp_path / "a.png", on_white=False))
        assert (found[8:24, 8:24] == 255).all()
        assert found.sum() == 16 * 16 * 3 * 255
