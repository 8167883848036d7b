"""Scores that programs outside gave pictures, such as preference models.

HPSv2, HPSv3 and ImageReward pin versions that can't be installed beside this package's. So they run
elsewhere and hand over a file, of one object a line (JSON Lines), or of one list of objects::

    {"picture": "samples/0.png", "prompt": "a cat", "score": 0.271}

`picture` is a path, absolute or from the file's folder; `prompt` may be missing. See
`docs/evaluation.md`.
"""

from __future__ import annotations

__all__ = ["Score", "read_scores", "score_value"]

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .bootstrap import Resampling, interval
from .metric import Better
from .value import Value

_KEYS = {"picture", "prompt", "score"}


@dataclass(frozen=True)
class Score:
    """A picture's score.

    Args:
        picture: The file.
        prompt: What it was drawn for; empty if it was not told.
        score: The number.
    """

    picture: Path
    prompt: str
    score: float


def read_scores(path: str | Path, pictures: Sequence[str | Path] | None = None) -> list[Score]:
    """The scores of a file.

    Args:
        path: The file.
        pictures: The pictures that must have a score, each one, and no others. The scores come in
            their order, so that rows of the same seeds can be paired. None takes what is there.

    Raises:
        ValueError: If there is no such file, a record is none, a picture has two scores or none.
    """
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    scores: dict[Path, Score] = {}
    for number, record in enumerate(_records(text, place), start=1):
        score = _score(record, f"{path}, record {number}", place.parent)
        if score.picture in scores:
            raise ValueError(f"{path}, record {number}: {score.picture} has a score already")
        scores[score.picture] = score
    if not scores:
        raise ValueError(f"{path} has no scores")
    if pictures is None:
        return list(scores.values())
    wanted = [Path(picture).resolve() for picture in pictures]
    for difference, what in (
        ([picture for picture in wanted if picture not in scores], "has no score for"),
        (
            [picture for picture in scores if picture not in {*wanted}],
            "has a score for the unknown",
        ),
    ):
        if difference:
            raise ValueError(f"{path} {what} {difference[0]} ({len(difference)} such)")
    return [scores[picture] for picture in wanted]


def score_value(
    scores: Sequence[Score],
    model: str,
    *,
    better: Better = "higher",
    resampling: Resampling | None = None,
) -> Value:
    """The mean of scores, with its interval over pictures.

    Args:
        scores: The scores.
        model: The model that gave them, with its version, such as `hpsv2.1`.
        better: Whether better pictures have higher or lower scores.
        resampling: How pictures are resampled.

    Raises:
        ValueError: If there are too few.
    """
    resampling = Resampling() if resampling is None else resampling
    numbers = torch.tensor([score.score for score in scores], dtype=torch.float64)
    ends = interval(lambda indices: float(numbers[indices].mean()), len(numbers), resampling)
    return Value(
        metric="score",
        extractor=model,
        value=ends.value,
        low=ends.low,
        high=ends.high,
        count=len(numbers),
        against="",
        better=better,
        intervals=resampling.text,
    )


def _records(text: str, path: Path) -> list[Any]:
    try:
        if text.lstrip().startswith("["):
            found = json.loads(text)
            return list(found)
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is neither JSON Lines nor a list of JSON: {error}") from error


def _score(record: Any, where: str, folder: Path) -> Score:
    if not isinstance(record, dict) or not {"picture", "score"} <= record.keys() <= _KEYS:
        raise ValueError(
            f'{where} is {json.dumps(record)[:80]}; expected {{"picture": PATH, "prompt": TEXT, '
            '"score": NUMBER}'
        )
    picture, prompt, score = record["picture"], record.get("prompt", ""), record["score"]
    if not isinstance(picture, str) or not isinstance(prompt, str):
        raise ValueError(f"{where}: expected texts as picture and prompt")
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise ValueError(f"{where}: score={score!r}; expected a finite number")
    return Score((folder / picture).resolve(), prompt, float(score))
