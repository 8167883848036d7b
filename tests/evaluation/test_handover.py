"""Scores that other programs hand over."""

import json
from pathlib import Path

import pytest

from smoothed_energy.evaluation import Resampling, read_scores, score_value

RECORDS = [
    {"picture": "samples/1.png", "prompt": "a cat", "score": 0.25},
    {"picture": "samples/0.png", "prompt": "a dog", "score": 0.75},
    {"picture": "samples/2.png", "score": 1},
    {"picture": "samples/3.png", "score": -1.5},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)) + "\n\n")
    return path


def test_lines_and_lists_are_read_alike(file, tmp_path):
    scores = read_scores(file)
    assert [(score.prompt, score.score) for score in scores] == [
        ("a cat", 0.25),
        ("a dog", 0.75),
        ("", 1.0),
        ("", -1.5),
    ]
    assert scores[0].picture == (tmp_path / "samples" / "1.png").resolve()
    other = tmp_path / "scores.json"
    other.write_text(json.dumps(RECORDS, indent=2))
    assert read_scores(other) == scores


def test_scores_come_in_the_order_of_the_pictures_that_need_one(file, tmp_path):
    pictures = [tmp_path / "samples" / f"{number}.png" for number in range(4)]
    assert [score.score for score in read_scores(file, pictures)] == [0.75, 0.25, 1.0, -1.5]
    with pytest.raises(ValueError, match=r"has no score for .*4\.png \(1 such\)"):
        read_scores(file, [*pictures, tmp_path / "samples" / "4.png"])
    with pytest.raises(ValueError, match=r"has a score for the unknown .*\(2 such\)"):
        read_scores(file, pictures[:2])


def test_their_mean_is_a_value_with_an_interval(file):
    value = score_value(read_scores(file), "hpsv2.1", resampling=Resampling(500))
    assert value.value == pytest.approx(0.125)
    assert value.low < 0.125 < value.high
    assert (value.name, value.count, value.better) == ("score (hpsv2.1)", 4, "higher")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "neither JSON Lines nor a list"),
        ("3", r"record 5 is 3; expected \{\"picture\": PATH"),
        ('{"picture": "a.png"}', "record 5 is .*expected"),
        ('{"picture": "a.png", "score": 1, "mean": 2}', "record 5 is .*expected"),
        ('{"picture": "a.png", "score": "good"}', "score='good'; expected a finite number"),
        ('{"picture": "a.png", "score": NaN}', "score=nan; expected a finite number"),
        ('{"picture": "a.png", "score": true}', "score=True; expected a finite number"),
        ('{"picture": 3, "score": 1}', "expected texts"),
        ('{"picture": "samples/../samples/1.png", "score": 1}', "has a score already"),
    ],
)
def test_records_that_are_none_are_refused(file, line, message):
    file.write_text(file.read_text().strip() + "\n" + line)
    with pytest.raises(ValueError, match=message):
        read_scores(file)


def test_a_file_without_scores_is_refused(tmp_path):
    with pytest.raises(ValueError, match="can't be read"):
        read_scores(tmp_path / "none.jsonl")
    Path(tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no scores"):
        read_scores(tmp_path / "empty.jsonl")
