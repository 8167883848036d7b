"""The data set's command: what is drawn is kept, and never mixed with other portraits."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from training.captions import caption
from training.dataset import read_captions
from training.drawing import draw_split, main, seed_of
from training.styles import BACKGROUNDS, STYLES

from training import drawing

STYLE_NAMES = ["personas", "dylan"]


def draw(folder, request):
    """What the drawing script answers, with a picture that is the seed."""
    return [
        {
            "style": job["style"],
            "seed": job["seed"],
            "svg": job["seed"],
            "attributes": {
                "skinColor": "#" + next(iter(STYLES[job["style"]].colors["skinColor"].values())),
                "primaryBackgroundColor": "#" + BACKGROUNDS["teal"],
            },
        }
        for job in request["jobs"]
    ]


def paint(svg, size):
    value = random.Random(svg).randrange(256)
    return np.full((size, size, 3), value, np.uint8)


@pytest.fixture
def requests(monkeypatch):
    """No Node.js, one process, and a list of the seeds asked for."""
    asked = []

    def noted(folder, request):
        asked.extend(job["seed"] for job in request["jobs"])
        return draw(folder, request)

    monkeypatch.setattr(drawing, "CHUNK", 2)
    monkeypatch.setattr(drawing, "ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr(drawing, "install_drawer", lambda folder: folder)
    monkeypatch.setattr(drawing, "drawer", noted)
    monkeypatch.setattr(drawing, "rasterize", paint)
    return asked


def split(folder, count, **changes):
    settings = {"size": 4, "styles": STYLE_NAMES, "processes": 1} | changes
    return draw_split(folder, "train", count, **settings)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_portraits_of_the_embedded_model_keep_their_seeds():
    assert seed_of("train", 0) == "train-f14835adb20abfc8"


def test_another_seed_gives_other_portraits_that_no_split_shares():
    every = [
        seed_of(name, index, seed)
        for name in drawing.SPLITS
        for seed in (0, 1, 12)
        for index in range(200)
    ]
    assert len(set(every)) == len(every)
    assert all(seed.startswith(("train-", "heldout-")) for seed in every)


def test_a_split_has_a_line_for_every_picture(requests, tmp_path):
    pixels = np.load(split(tmp_path, 5, seed=3))
    seeds = [seed_of("train", index, 3) for index in range(5)]
    assert requests == seeds
    assert np.array_equal(pixels, np.stack([paint(seed, 4) for seed in seeds]))
    captions = list(read_captions(tmp_path / "train-4.jsonl"))
    assert len(captions) == 5
    attributes = draw(None, {"jobs": [{"style": "dylan", "seed": ""}]})[0]["attributes"]
    assert captions[1][0] == caption("dylan", attributes, random.Random("train-3-1"))
    assert {path.name for path in tmp_path.iterdir()} == {"train-4.npy", "train-4.jsonl"}


def test_more_portraits_continue_a_split_and_fewer_leave_it_alone(requests, tmp_path):
    for name in ("whole", "grown"):
        (tmp_path / name).mkdir()
    split(tmp_path / "whole", 5)
    split(tmp_path / "grown", 3)
    requests.clear()
    split(tmp_path / "grown", 5)
    assert requests == [seed_of("train", index) for index in (3, 4)]
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    split(tmp_path / "grown", 2)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


@pytest.mark.parametrize("count", [3, 4, 6])
@pytest.mark.parametrize("other", [{"styles": ["dylan"]}, {"seed": 1}])
def test_other_styles_or_seeds_are_refused_and_nothing_is_lost(requests, tmp_path, other, count):
    split(tmp_path, 4)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"train-4\.jsonl has other portraits: number 0 is perso"):
        split(tmp_path, count, **other)
    assert contents(tmp_path) == before


def test_another_size_is_another_file(requests, tmp_path):
    split(tmp_path, 2)
    before = contents(tmp_path)
    assert np.load(split(tmp_path, 2, size=8)).shape == (2, 8, 8, 3)
    assert contents(tmp_path).items() >= before.items()


def test_a_run_that_is_cut_off_leaves_what_there_was(requests, tmp_path, monkeypatch):
    split(tmp_path, 3)
    before = contents(tmp_path)

    def broken(folder, request):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(drawing, "drawer", broken)
        split(tmp_path, 5)
    assert contents(tmp_path).items() >= before.items()
    assert len(np.load(split(tmp_path, 5))) == 5
    assert len(list(read_captions(tmp_path / "train-4.jsonl"))) == 5


def test_pictures_without_their_lines_are_refused(requests, tmp_path):
    split(tmp_path, 3)
    lines = tmp_path / "train-4.jsonl"
    lines.write_bytes(lines.read_bytes()[:-20])
    with pytest.raises(ValueError, match="describes 2 of the 3 portraits"):
        split(tmp_path, 5)


def test_the_command_answers_mistakes_in_a_line(requests, tmp_path, capsys):
    def run(*arguments):
        main(
            ["--folder", str(tmp_path), "--size", "4", "--heldout", "2", "--train", "3", *arguments]
        )

    run()
    run()
    for arguments, message in (
        (["--seed", "1"], "has other portraits"),
        (["--styles", "initials"], "invalid choice: 'initials'"),
        (["--train", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
