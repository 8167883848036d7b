"""The command `sweep`."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

import smoothed_energy.sweeps as sweeps
from smoothed_energy.sweeps import Results, SweepStopped

FILE = """
name: tiny
model: MODEL
prompts: ["", "a cat"]
seeds: 0-1
base: {guidance: seg; layers=mid, num_inference_steps: 2}
axes:
  - guidance.scale: [0.5, 2]
list:
  - guidance: none
"""
_SDXL = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
EXAMPLE = Path(__file__).parents[2] / "examples" / "sweep.yaml"


@pytest.fixture
def file(tmp_path, model, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Workers fork from a server that has what they need, since this is about the command.
    multiprocessing.set_forkserver_preload([_SDXL, "smoothed_energy.sweeps.local"])
    monkeypatch.setattr("smoothed_energy.sweeps.local._START", "forkserver")
    path = tmp_path / "sweep.yaml"
    path.write_text(FILE.replace("MODEL", model))
    return path


def test_a_sweep_is_told_drawn_and_told_again(run, file, tmp_path):
    code, out, err = run("sweep", file, "--dry-run")
    assert code == 0, err
    assert "12 pictures of 3 configurations, 0 of them in out/tiny, 12 to draw" in out
    rows = [line.split() for line in out.splitlines() if line.strip().startswith(("scale", "ung"))]
    assert rows == [["scale=0.5", "4", "0"], ["scale=2", "4", "0"], ["unguided", "4", "0"]]
    assert not (tmp_path / "out").exists()

    code, out, _ = run("sweep", file, "--limit", 5, "--workers", 1)
    assert code == 1
    assert "5 of 12 pictures are in out/tiny" in out
    code, out, _ = run("sweep", file, "--dry-run")
    assert "5 of them in out/tiny, 7 to draw" in out

    code, out, err = run("sweep", file, "--workers", 1, "--batch-size", 3)
    assert code == 0, err
    assert "12 of 12 pictures are in out/tiny" in out
    results = Results.open(tmp_path / "out" / "tiny")
    assert results.complete and {*results.pictures["guided_steps"]} == {0, 2}


def test_the_folder_can_be_chosen(run, file, tmp_path):
    code, out, _ = run("sweep", file, "--limit", 0, "--out", "elsewhere")
    assert code == 1
    assert "0 of 12 pictures are in elsewhere" in out
    assert (tmp_path / "elsewhere" / "sweep.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds:", "seed:"), "'seed' is not a key of a sweep; did you mean 'seeds'?"),
        (("guidance.scale", "guidance.scal"), "did you mean 'guidance.scale'?"),
        (("layers=mid", "layers=m9"), "'m9' is out of range; there are down"),
        (("[0.5, 2]", "[0.5, strong]"), "configuration 'scale=strong': scale='strong'"),
        (("name: tiny", "name: [tiny"), "line 3"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(change, message, run, file):
    file.write_text(file.read_text().replace(*change))
    code, _, err = run("sweep", file)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_a_missing_file_is_told(run):
    code, _, err = run("sweep", "nowhere.yaml")
    assert (code, err) == (
        2,
        "error: nowhere.yaml: no sweep can be read (No such file or directory)\n",
    )


def test_a_run_that_has_to_stop_has_exit_code_1(run, file, monkeypatch):
    def stop(*_, **__):
        raise SweepStopped("out: No space left on device; what was drawn is kept")

    monkeypatch.setattr(sweeps, "run", stop)
    code, _, err = run("sweep", file)
    assert (code, err) == (1, "error: out: No space left on device; what was drawn is kept\n")


def test_failures_are_told(run, file):
    # The sizes of this model are multiples of 8.
    file.write_text(file.read_text().replace("base: {", "base: {size: 33x32, "))
    code, out, err = run("sweep", file, "--workers", 1, "--limit", 2)
    assert code == 1
    assert "0 of 12 pictures" in out
    assert (
        "2 failed, as out/tiny/failures.jsonl tells; the first: scale=0.5, seed 0: ValueError"
        in err
    )


def test_the_example_is_a_sweep(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, err = run("sweep", EXAMPLE, "--dry-run")
    assert code == 0, err
    assert "208 pictures of 13 configurations" in out


def test_metrics_of_the_file_are_measured(run, file, tmp_path):
    """The numbers are those of the library for the same files."""
    from PIL import Image

    from smoothed_energy.evaluation import evaluate, open_extractor

    real = tmp_path / "real"
    real.mkdir()
    for seed in range(6):
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(real / f"{seed}.png")
    file.write_text(f"{file.read_text()}metrics: [frechet, kernel]\nagainst: {real}\n")
    code, out, err = run("sweep", file, "--workers", 1)
    assert code == 0, err
    assert "Frechet distance" in out
    folder = tmp_path / "out" / "tiny"
    found = json.loads((folder / "metrics.json").read_text())
    assert [*found] == ["scale=0.5", "scale=2", "unguided"]
    paths = Results.open(folder).paths("unguided")
    expected = evaluate(
        paths, real, ["frechet", "kernel"], extractor=open_extractor("efficientnet-lite0")
    )
    assert [one["metric"] for one in found["unguided"]] == ["frechet", "kernel"]
    for one, value in zip(found["unguided"], expected, strict=True):
        assert one["value"] == pytest.approx(value.value, rel=1e-9)
        assert one["low"] <= one["value"] <= one["high"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("metrics: [freshet]\nagainst: .", "'freshet'"),
        ("metrics: [frechet]", "nothing to compare with"),
        ("metrics: [frechet]\nagainst: nowhere", "nowhere is not there"),
        ("against: .", "has no effect without metrics"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(
    run, file, tmp_path, lines, message
):
    file.write_text(f"{file.read_text()}{lines}\n")
    code, _, err = run("sweep", file)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()
