"""Small pipelines with random weights, saved to folders as users have them."""

from __future__ import annotations

import pytest
from tiny_model import perturbed_attention, text_to_image, unconditional

from smoothed_energy.cli import main


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    text_to_image().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def unconditional_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "ddim"
    unconditional().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def perturbed_attention_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "pag"
    perturbed_attention().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def convolutional_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "convolutional"
    unconditional(attention=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
