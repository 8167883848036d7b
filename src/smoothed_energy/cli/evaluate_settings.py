"""The settings of ``evaluate``, each with all that the command line knows of it."""

from __future__ import annotations

__all__ = ["EvaluateSettings", "default_store"]

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .option import Option
from .setting_kinds import PATH, TEXT, TEXT_OR_NONE, integer_from

_NUMBERS, _FEATURES, _OUTPUT = "Numbers", "Features", "Output"


def default_store() -> Path:
    """``$XDG_CACHE_HOME/smoothed-energy/features``, or the same below ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "smoothed-energy" / "features"


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Everything that ``evaluate`` can be told; each field is an option of the command line."""

    folder: Annotated[
        Path | None,
        Option(
            PATH,
            "The pictures to measure: a folder, with those in it.",
            is_argument=True,
            is_remembered=False,
        ),
    ]
    against: Annotated[
        Path | None,
        Option(
            PATH,
            "Real pictures to compare with: a folder, or statistics of --save-statistics.",
            group=_NUMBERS,
            metavar="FOLDER|STATS",
            is_remembered=False,
        ),
    ]
    metrics: Annotated[
        str,
        Option(
            TEXT,
            "Metrics, joined by commas: frechet, kernel, cmmd, precision, recall, density, "
            "coverage, vendi.",
            default="frechet,kernel",
            group=_NUMBERS,
            metavar="NAMES",
            is_remembered=False,
        ),
    ]
    intervals: Annotated[
        int | None,
        Option(
            integer_from(20),
            "Give each number a 95 % interval over seeds, from so many random halves.",
            group=_NUMBERS,
            is_remembered=False,
        ),
    ]
    features: Annotated[
        str,
        Option(
            TEXT,
            "What makes features: efficientnet-lite0, inception, dinov2 or clip; and behind a "
            "colon the size, the file of weights, or the folder or hub id of a model.",
            default="efficientnet-lite0",
            group=_FEATURES,
            metavar="NAME[:SOURCE]",
            is_remembered=False,
        ),
    ]
    square: Annotated[
        int | None,
        Option(
            integer_from(1),
            "Take the middle square of every picture, resized to so many pixels a side.",
            group=_FEATURES,
            metavar="PIXELS",
            is_remembered=False,
        ),
    ]
    device: Annotated[
        str,
        Option(TEXT, "cpu, cuda, mps, ...", "cpu", group=_FEATURES, is_remembered=False),
    ]
    batch_size: Annotated[
        int,
        Option(
            integer_from(1),
            "Pictures that go through the network at once.",
            default=32,
            group=_FEATURES,
            is_remembered=False,
        ),
    ]
    store: Annotated[
        str | None,
        Option(
            TEXT_OR_NONE,
            "Where features are kept, so that none is computed twice; `none` keeps nothing.",
            default_words="the user's cache folder",
            group=_FEATURES,
            metavar="FOLDER|none",
            is_remembered=False,
        ),
    ]
    json: Annotated[
        str | None,
        Option(
            TEXT_OR_NONE,
            "Write the numbers as JSON to a file, or to standard output in place of the table.",
            group=_OUTPUT,
            metavar="FILE|-",
            is_remembered=False,
        ),
    ]
    save_statistics: Annotated[
        Path | None,
        Option(
            PATH,
            "Keep mean and covariance of FOLDER's features in a file (.npz), for --against.",
            group=_OUTPUT,
            metavar="FILE",
            is_remembered=False,
        ),
    ]

    def check(self) -> None:
        """Refuse what can be told to be wrong before anything is read.

        Raises:
            ValueError: If it is.
        """
        if self.folder is None:
            raise ValueError("FOLDER is missing; expected a folder of pictures to measure")
        if self.against is None and self.save_statistics is None:
            raise ValueError(
                "--against is missing; expected a folder of real pictures or their statistics, or "
                "--save-statistics FILE to keep those of FOLDER"
            )
        if self.save_statistics is not None and self.save_statistics.suffix != ".npz":
            raise ValueError(
                f"--save-statistics {self.save_statistics}: expected a file that ends in .npz"
            )
        if self.against is None and self.json is not None:
            raise ValueError("--json has no numbers to write without --against")
        _check_numbers(self)
        _check_places(self)


def _check_numbers(settings: EvaluateSettings) -> None:
    for option, value, most in (
        ("--intervals", settings.intervals, 100_000),
        ("--square", settings.square, 4096),
    ):
        if value is not None and value > most:
            raise ValueError(f"{option} {value}: expected at most {most}")


def _check_places(settings: EvaluateSettings) -> None:
    for place in (settings.folder, settings.against):
        if place is not None and not place.exists():
            raise ValueError(f"{place}: there is no such folder or file")
        if place is not None and not (place.is_dir() or place.is_file()):
            raise ValueError(f"{place} is a pipe or a device; expected a folder or a file")
    store = Path(settings.store or "none")
    if settings.store != "none" and store.exists() and not store.is_dir():
        raise ValueError(f"--store {store} is a file; expected a folder, or none")
    written = settings.json if settings.json != "-" else None
    for file in (written, settings.save_statistics):
        if file is not None and Path(file).is_dir():
            raise ValueError(f"{file} is a folder; expected a file to write")
        if file is not None and not Path(file).resolve().parent.is_dir():
            raise ValueError(f"{file}: there is no folder {Path(file).parent} to write it in")
