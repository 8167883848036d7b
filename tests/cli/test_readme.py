"""The README's snippets and commands, run as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image, ImageDraw
from tiny_model import text_to_image

from smoothed_energy import attachments

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^smoothed-energy [^#\n]*", README, re.MULTILINE)


def test_it_is_short():
    assert len(README.split()) < 900


def test_the_first_snippet_draws_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(PYTHON[0], found)
    guided = np.asarray(Image.open("portrait.png")).astype(int)
    assert guided.shape == (96, 96, 3)
    assert guided.std() > 10
    assert not attachments(found["pipe"])


def test_the_snippet_of_a_large_model_guides_it(monkeypatch):
    """With a small pipeline in place of the hub's, which is on no GPU."""
    pipe, calls = text_to_image(), []
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr(
        StableDiffusionXLPipeline,
        "from_pretrained",
        lambda *args, **kwargs: calls.append((args, kwargs)) or pipe,
    )
    monkeypatch.setattr(type(pipe), "to", lambda self, *args: calls.append((args, {})) or self)
    found = {}
    exec(PYTHON[1], found)
    assert [args for args, _ in calls] == [("stabilityai/stable-diffusion-xl-base-1.0",), ("cuda",)]
    assert calls[0][1] == {"torch_dtype": torch.float16}
    assert isinstance(found["image"], Image.Image)
    assert not attachments(pipe)


@pytest.fixture
def photo(tmp_path):
    """A picture with edges, where the commands expect one."""
    picture = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).ellipse((30, 20, 98, 108), fill="sienna", outline="black", width=4)
    picture.save(tmp_path / "photo.jpg")
    return picture


@pytest.mark.parametrize("command", [c for c in COMMANDS if " generate " in c or " layers " in c])
def test_commands_that_draw_or_list_run(command, run, photo, tmp_path):
    code, out, err = run(*shlex.split(command)[1:])
    assert code == 0, err
    assert out
    if " generate " in command:
        assert (tmp_path / out.split()[-1]).exists()


def test_commands_that_measure_run(run, photo, tmp_path):
    commands = {shlex.split(c)[1]: shlex.split(c)[1:] for c in COMMANDS}
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    code, _, err = run(*commands["sweep"], "--dry-run")
    assert code == 0, err
    for folder in ("out/mine", "photos"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(24):
            shade = Image.new("RGB", (96, 96), (10 * number, 120, 200))
            shade.save(tmp_path / folder / f"{number}.png")
    code, _, err = run(*commands["evaluate"])
    assert code == 0, err


def test_the_command_that_repeats_the_papers_is_understood(run):
    """`tests/experiments/test_every_experiment.py` runs every one of them."""
    (command,) = [shlex.split(c)[1:] for c in COMMANDS if " reproduce " in c]
    code, _, err = run(*command, "--samples", "0")
    assert code == 2
    assert "samples" in err  # and nothing else is wrong with it
