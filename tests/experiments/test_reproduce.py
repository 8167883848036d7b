"""Experiments from end to end on the embedded model, with few steps and samples."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import smoothed_energy.experiments.experiment as registry
from smoothed_energy.cli import app, main
from smoothed_energy.evaluation import METRICS, feature_set, open_extractor
from smoothed_energy.experiments import EXPERIMENTS, Experiment, register_experiment
from smoothed_energy.experiments.reference import read_reference, write_reference
from smoothed_energy.experiments.reproduce import reproduce
from smoothed_energy.experiments.study import Scope, Study
from smoothed_energy.experiments.subject import AVATARS, SDXL, subject_of

PAGE = Path(__file__).parents[2] / "docs" / "experiments.md"


@pytest.fixture
def experiments():
    """What a test registers is forgotten after it."""
    before = dict(registry._experiments)
    yield
    registry._experiments.clear()
    registry._experiments.update(before)


@pytest.fixture
def study(tmp_path):
    few = replace(AVATARS, num_inference_steps=2)
    return Study(few, tmp_path, Scope(samples=4, selection=4, pilots=2, workers=1, device="cpu"))


def test_the_page_lists_every_experiment():
    listed = re.findall(r"^\| `([\w-]+)` \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.M)
    assert listed == [(one.name, one.source, one.question) for one in EXPERIMENTS.values()]


def test_the_experiment_of_the_page_runs(experiments, study):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    exec(compile(code, "experiments.md", "exec"), {})
    outcome = reproduce([EXPERIMENTS["mine"]], study, command="a command")
    assert not outcome.failed
    numbers = json.loads(outcome.numbers.read_text())
    table = numbers["experiments"]["mine"]["table"]
    rows = list(dict.fromkeys(one["row"] for one in table))
    assert rows == ["unguided", "PAG, scale 0.7", "SEG sigma inf, scale 0.7"]
    # The number is that of the metric, computed here from the files alone.
    extractor = open_extractor("efficientnet-lite0")
    real = read_reference(AVATARS.reference, extractor, None)
    pictures = [*(study.out / "drawn" / "pictures").rglob("*.png")]
    assert len(pictures) == 12
    by_seed = {}
    for path in pictures:
        facts = json.loads(_text(path))
        guidance = facts["settings"]["guidance"]
        by_seed.setdefault(guidance[0]["method"] if guidance else "", []).append(
            (facts["seed"], path)
        )
    paths = [path for _, path in sorted(by_seed["pag"])]
    samples = feature_set(paths, extractor)
    expected = METRICS["frechet"](samples.features, real.features)
    (found,) = [one for one in table if one["row"].startswith("PAG") and one["metric"] == "frechet"]
    assert found["value"] == pytest.approx(expected, rel=1e-6)
    assert found["kind"] == extractor.name
    assert found["low"] < found["high"]
    page = outcome.page.read_text()
    assert "PAG or SEG?" in page
    assert "a command" in page


def _text(path):
    from PIL import Image

    with Image.open(path) as image:
        return next(iter(image.text.values()))


def test_an_experiment_that_cannot_be_made_does_not_stop_the_others(study):
    def broken(study):
        raise ValueError("no <captions>")

    def fine(study):
        from smoothed_energy.report.page import Section

        study.keep("answer", 42)
        return Section("Fine", "all well")

    told = []
    outcome = reproduce(
        [
            Experiment("broken", "SEG, Table 9", "Is it broken?", broken),
            Experiment("fine", "[Re], Table 9", "Is it fine?", fine),
        ],
        study,
        tell=told.append,
    )
    assert outcome.failed == {"broken": "no <captions>"}
    numbers = json.loads(outcome.numbers.read_text())
    assert numbers["failed"] == {"broken": "no <captions>"}
    assert numbers["experiments"] == {"fine": {"answer": 42}}
    assert any("broken could not be made: no <captions>" in line for line in told)
    page = outcome.page.read_text()
    assert "no &lt;captions&gt;" in page
    assert "all well" in page


def test_two_experiments_of_one_name_are_refused(experiments):
    register_experiment(Experiment("twice", "here", "?", lambda study: None))
    with pytest.raises(ValueError, match="two experiments called 'twice'"):
        register_experiment(Experiment("twice", "there", "?", lambda study: None))


def test_the_command_makes_a_page(tmp_path):
    arguments = ["reproduce", "re-table-2,re-figure-9", "--samples", "4", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    # Some of the experiments do not take the place of the page of all.
    assert not (tmp_path / "numbers.json").exists()
    numbers = json.loads((tmp_path / "numbers-re-table-2-and-1.json").read_text())
    assert set(numbers["experiments"]) == {"re-table-2", "re-figure-9"}
    (claim,) = numbers["verdicts"]
    assert claim["verdict"] == "does not hold"
    divergence = numbers["experiments"]["re-figure-9"]["divergence"]
    # Guided from the first step on, the latents differ from the first step's result on.
    assert divergence["all steps"]["first above 1e-13"] == 1
    # Guided in the last third, the 15 steps before the 11th are the unguided ones.
    assert divergence["last third"]["first above 1e-13"] == 11
    assert (tmp_path / "report-re-table-2-and-1.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seg-tabel-1"], "no experiment 'seg-tabel-1'; did you mean seg-table-1?"),
        ([], "which experiments?"),
        (["all", "--samples", "3"], "samples"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["reproduce", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error


def test_what_the_papers_used_stands_in_the_subject():
    assert (SDXL.num_inference_steps, SDXL.size) == (30, (1024, 1024))
    assert (SDXL.scheduler, SDXL.sag_scheduler) == ("EulerDiscreteScheduler", "DDIMScheduler")
    assert (SDXL.paper_scale, SDXL.layers) == (3.0, "mid")
    assert SDXL.picture_seeds == (77, 5867991739709137916, 53647657)
    assert subject_of("some/other").num_inference_steps == 30


def test_captions_and_references_that_are_missing_are_told():
    with pytest.raises(ValueError, match=r"need captions for stabilityai.*--captions FILE"):
        SDXL.read_captions(2)
    assert len(set(AVATARS.read_captions(100))) > 90
    there = len(AVATARS.captions.read_text().splitlines())
    assert AVATARS.read_captions(there + 1)[there] == AVATARS.read_captions(1)[0]


def test_features_of_another_extractor_are_refused(tmp_path):
    from smoothed_energy.evaluation import FeatureSet

    class Extractor:
        name, digest = "another-8", "0" * 64

    place = tmp_path / "features.safetensors"
    write_reference(place, FeatureSet(torch.rand(3, 8), "one-8", "1" * 64, "three"))
    with pytest.raises(ValueError, match=r"features of 'one-8' .*expected 'another-8'"):
        read_reference(place, Extractor(), None)
    with pytest.raises(ValueError, match="expected a folder of pictures"):
        read_reference(tmp_path / "nowhere", Extractor(), None)
