"""The settings of ``reproduce``, each with all that the command line knows of it."""

from __future__ import annotations

__all__ = ["ReproduceSettings"]

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..files.regular_file import check_regular
from ..models.locations import resolve_model
from .option import Option
from .setting_kinds import FLAG, PATH, TEXT, TEXT_OR_NONE, integer_from

DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")

_SIZE, _MODEL, _OUTPUT = "How much", "Model", "Output"


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Everything that ``reproduce`` can be told; each field is an option of the command line."""

    names: Annotated[
        str,
        Option(
            TEXT,
            "Experiments, joined by commas, or `all`; --list tells them.",
            default="",
            is_argument=True,
            is_remembered=False,
        ),
    ]
    listing: Annotated[
        bool,
        Option(
            FLAG,
            "List the experiments.",
            default=False,
            flags=("--list",),
            is_remembered=False,
        ),
    ]
    samples: Annotated[
        int,
        Option(
            integer_from(4),
            "Samples of each row of a table; the papers have 30000.",
            default=16,
            group=_SIZE,
            is_remembered=False,
        ),
    ]
    selection: Annotated[
        int,
        Option(
            integer_from(4),
            "Samples by which the best scale of a method is chosen.",
            default=500,
            default_words="500, at most --samples",
            group=_SIZE,
            is_remembered=False,
        ),
    ]
    pilots: Annotated[
        int,
        Option(
            integer_from(2),
            "Samples by which the scale of a control is matched.",
            default=32,
            default_words="32, at most --samples",
            group=_SIZE,
            is_remembered=False,
        ),
    ]
    model: Annotated[
        str,
        Option(
            TEXT,
            "A model of this package, a folder, or an id of the Hugging Face hub.",
            default="avatars",
            group=_MODEL,
            is_remembered=False,
        ),
    ]
    reference: Annotated[
        Path | None,
        Option(
            PATH,
            "Real pictures to compare with: a folder.",
            default_words="the embedded model's own",
            group=_MODEL,
            metavar="FOLDER",
            is_remembered=False,
        ),
    ]
    captions: Annotated[
        Path | None,
        Option(
            PATH,
            "Captions for tables with prompts: a text file, one a line.",
            default_words="the embedded model's own",
            group=_MODEL,
            metavar="FILE",
            is_remembered=False,
        ),
    ]
    square: Annotated[
        int | None,
        Option(
            integer_from(32),
            "Cut the reference's pictures to middle squares of so many pixels.",
            default_words="480 for SDXL",
            group=_MODEL,
            is_remembered=False,
        ),
    ]
    dtype: Annotated[
        str,
        Option(
            TEXT,
            "float32, float16, bfloat16, float64.",
            default="auto",
            default_words="what suits the device",
            group=_MODEL,
            is_remembered=False,
        ),
    ]
    device: Annotated[
        str,
        Option(
            TEXT,
            "cpu, cuda, mps, ...",
            default="auto",
            default_words="the best",
            group=_MODEL,
            is_remembered=False,
        ),
    ]
    workers: Annotated[
        int | None,
        Option(
            integer_from(1),
            "Processes that draw.",
            default_words="one a core, or one a GPU",
            group=_SIZE,
            is_remembered=False,
        ),
    ]
    batch_size: Annotated[
        int,
        Option(
            integer_from(1),
            "Pictures that a process draws at once; on a CPU it changes none of them.",
            default=8,
            group=_SIZE,
            is_remembered=False,
        ),
    ]
    ray: Annotated[
        str | None,
        Option(
            TEXT_OR_NONE,
            "Draw on a Ray cluster: its address, or local.",
            group=_SIZE,
            metavar="ADDRESS",
            is_remembered=False,
        ),
    ]
    out: Annotated[
        Path,
        Option(
            PATH,
            "Folder for the pictures, the page and the numbers. What is there is not made again.",
            default=Path("out/reproduced"),
            default_words="out/reproduced",
            group=_OUTPUT,
            is_remembered=False,
        ),
    ]

    def check(self) -> None:
        """Refuse what can be told to be wrong before anything is loaded or drawn.

        Raises:
            ValueError: If it is.
        """
        for option, value, most in (
            ("--samples", self.samples, 1_000_000),
            ("--workers", self.workers, 1024),
            ("--square", self.square, 4096),
        ):
            if value is not None and value > most:
                raise ValueError(f"{option} {value}: expected at most {most}")
        if self.reference is not None and not self.reference.is_dir():
            raise ValueError(f"--reference {self.reference}: there is no such folder")
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype {self.dtype}: expected one of {', '.join(DTYPES)}")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out {self.out} is a file; expected a folder, which may be new")
        resolve_model(self.model)
        try:
            if self.captions is not None:
                check_regular(self.captions)
        except OSError as error:
            raise ValueError(f"--captions {self.captions}: {error.strerror or error}") from None
