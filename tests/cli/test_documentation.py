"""What the documentation promises about options and settings."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from small_models import unet_inputs
from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.cli.resolve import resolve_settings
from smoothed_energy.families.layer_selection import normalise_selection
from smoothed_energy.methods import METHODS
from smoothed_energy.schedule.steps import as_steps
from smoothed_energy.smoothing import Smoothing

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text()
MANUAL = (ROOT / "docs" / "command-line.md").read_text()


def options(text):
    return set(re.findall(r"--[a-z][a-z-]+", text))


def test_the_manual_has_every_option_and_no_other(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, generate, _ = run("generate", "--help")
    _, layers, _ = run("layers", "--help")
    _, methods, _ = run("methods", "--help")
    real = options(generate) | options(layers) | options(methods)
    assert options(MANUAL) <= real
    assert real - options(MANUAL) <= {"--help", "--no-compare"}


def test_the_readme_uses_only_real_options(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, generate, _ = run("generate", "--help")
    _, layers, _ = run("layers", "--help")
    measuring = [run(name, "--help")[1] for name in ("evaluate", "sweep", "reproduce")]
    real = set().union(*map(options, [generate, layers, *measuring]))
    assert options(README) <= real


EXPERIMENTS = (ROOT / "docs" / "experiments.md").read_text()


def test_the_page_on_experiments_uses_only_real_options(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, reproduce, _ = run("reproduce", "--help")
    assert options(EXPERIMENTS) <= options(reproduce)
    # What the page leaves out is told by the command itself.
    assert "--pilots" in options(reproduce)


def table(heading, text=README):
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [row.strip("|").split("|") for row in section.splitlines() if row.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def test_every_method_of_the_readme_is_a_guidance():
    rows = [row for row in table("Methods") if len(row) == 3]
    assert len(rows) >= 5
    for _, _, settings in rows:
        for setting in re.findall(r"`(\w+)=([^`]*)`", settings):
            SmoothedEnergyGuidance(**{setting[0]: ast.literal_eval(setting[1])})


@pytest.mark.parametrize(
    ("choice", "read"),
    [("blur", Smoothing.parse), ("layers", normalise_selection), ("steps", as_steps)],
)
def test_every_example_of_a_choice_is_understood(choice, read):
    (row,) = [row for row in table("Four choices") if row[0] == f"`{choice}`"]
    examples = re.findall(r"`([^`]+)`", row[2])
    assert len(examples) >= 3
    for example in examples:
        read(ast.literal_eval(example))


def test_the_manual_s_values_are_understood():
    for option, read in (("--blur", Smoothing.parse), ("--steps", as_steps)):
        (line,) = [line for line in MANUAL.splitlines() if line.startswith(f"| `{option}`")]
        for example in re.findall(r"`([^`]*)`", line.split("|")[2]):
            read(re.sub("SIGMA|SIZE", "5", example).replace("DECAY", "0.9"))


def test_the_table_of_methods_is_that_of_the_code():
    rows = {row[0].strip("`"): row for row in table("Methods", "## Methods\n" + METHODS_PAGE)}
    for name, cls in METHODS.items():
        about = cls.about
        expected = [f"`{cls.__name__}`", about.perturbs, about.cost, about.source, about.caveat]
        assert rows[name][1:] == expected
        assert f"`{cls.__name__}`" in README


def test_the_examples_of_the_page_of_methods_run(unet, registries):
    blocks = re.findall(r"```python\n(.*?)```", METHODS_PAGE, re.DOTALL)
    assert len(blocks) == 2
    found = {}
    for block in blocks:
        exec(block, found)
    with found["MeanValueGuidance"](layers="mid").attach(unet) as attachment, torch.no_grad():
        unet(**unet_inputs())
    assert attachment.last_run.guided_calls == 1


def test_the_settings_of_the_page_of_methods_are_understood():
    texts = re.findall(r"`\"([^`]*?)\"`", METHODS_PAGE.split("## What all of them share")[1])
    for text in texts:
        kind = text.split(":")[0]
        if kind in ("rescale", "project", "fuse") or text.startswith("project+"):
            SmoothedEnergyGuidance(combine=text)
        elif kind in ("linear", "cosine", "table"):
            SmoothedEnergyGuidance(scale=text)
        elif text in ("conditional", "unconditional"):
            SmoothedEnergyGuidance(formulation=text)
        elif kind in ("early", "drift"):
            SmoothedEnergyGuidance(refresh=text)
        elif kind == "every":
            SmoothedEnergyGuidance(refresh=text, steps=text)
        elif kind in ("mid", "m0.7,u0.4"):
            SmoothedEnergyGuidance(layers=text)
        else:
            SmoothedEnergyGuidance(steps=text)


def test_the_manual_s_mistakes_are_told_as_it_says(run):
    told = re.findall(r"^\$ smoothed-energy (.*)\n(error: .*)$", MANUAL, re.MULTILINE)
    assert told
    for command, error in told:
        code, out, err = run(*shlex.split(command))
        assert (code, out, err) == (2, "", f"{error}\n")


def test_the_manual_s_settings_are_those_of_an_image():
    (block,) = re.findall(r"```json\n(.*?)```", MANUAL, re.DOTALL)
    shown = json.loads(block)
    assert shown.pop("version") == 1
    assert shown.pop("made_with").keys() == {"smoothed-energy", "diffusers", "torch"}
    assert shown == json.loads(json.dumps(resolve_settings({}, {}).to_dict()))


def test_the_manual_s_table_of_layers_is_what_is_printed(run, model, tmp_path):
    ((command, table),) = re.findall(
        r"^\$ smoothed-energy (layers .*)\n((?:.*\n)*?)```", MANUAL, re.MULTILINE
    )
    shutil.copytree(model, tmp_path / "tiny")
    code, out, err = run(*shlex.split(command))
    assert code == 0, err

    def words(text):
        return [line.split() for line in text.splitlines() if line.strip(" \u2500")]

    assert words(out) == words(table)


def test_a_scale_that_the_manual_calls_weaker_is_weaker():
    (scale,) = re.findall(r"--scale (\S+) --out weaker", MANUAL)
    assert 0 < float(scale) < resolve_settings({}, {}).scale
