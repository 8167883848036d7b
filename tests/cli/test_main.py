"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from smoothed_energy import __version__


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_the_version_is_that_of_the_package(run):
    assert run("--version") == (0, f"smoothed-energy {__version__}\n", "")


def test_the_package_can_be_run():
    command = [sys.executable, "-m", "smoothed_energy"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"smoothed-energy {__version__}\n"
    wrong = subprocess.run([*command, "draw"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: ")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("generate", "-h"), ("layers", "--help")])
def test_help_is_not_an_error(run, arguments):
    code, out, err = run(*arguments)
    assert code == 0
    assert "Usage" in out
    assert err == ""


def test_help_tells_the_defaults(run):
    _, out, _ = run("generate", "--help")
    for text in ("avatars", "gaussian:10", "conditional"):
        assert text in out


@pytest.mark.parametrize("arguments", [("draw",), ("--fast",), ("layers", "a", "b")])
def test_an_unknown_command_or_option_is_one_line(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_command_starts_without_torch_and_diffusers():
    loaded = python(
        "import sys, smoothed_energy.cli; "
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("arguments", [["generate", "--help"], ["generate", "--seed", "-1"]])
def test_help_and_mistakes_are_told_without_torch_and_diffusers(arguments):
    loaded = python(
        "import sys; from smoothed_energy.cli import main; "
        f"main({arguments!r}); "
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    assert loaded.strip().endswith("[]")
