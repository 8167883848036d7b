"""The results of a sweep: its pictures as tables and paths, read from its folder."""

from __future__ import annotations

__all__ = ["Results", "stored_sweep"]

import importlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .configuration import Configuration
from .file import Sweep, SweepError
from .identity import Identity
from .plan import Plan, plan
from .tables import CONFIGURATIONS, FAILURES, PICTURES, SWEEP, TIMINGS, read_lines

if TYPE_CHECKING:
    import pandas as pd

_VERSION = 1


class Results:
    """What the last run of a sweep left in its folder.

    Args:
        folder: The folder.
        plan: The plan of the sweep.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan

    @classmethod
    def open(cls, folder: str | Path) -> Results:
        """The results in a folder, whatever machine they were drawn on.

        Args:
            folder: The folder of a sweep.

        Raises:
            SweepError: If there are none; a run that was killed leaves pictures but no tables, and
                running the sweep again writes them.
        """
        folder = Path(folder)
        try:
            stored = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
            sweep = Sweep.model_validate(stored["sweep"])
            identity = Identity(**stored["identity"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SweepError(f"{folder}: no sweep was run there ({error})") from error
        if not (folder / PICTURES).is_file():
            raise SweepError(f"{folder}: its tables are not written yet; run the sweep again")
        return cls(folder, plan(sweep, identity=identity))

    @cached_property
    def pictures(self) -> pd.DataFrame:
        """A row a picture that is there, in the order of configuration, prompt and seed.

        Columns: `id`, `configuration` (its label), the settings that vary, `prompt`, `seed`, `path`
        (from the folder), `width`, `height`, and the facts of its run, such as `guided_steps`.
        """
        table: pd.DataFrame = _pandas().read_parquet(self.folder / PICTURES)
        facts = [json.loads(text) for text in table.pop("facts")]
        facts_table: pd.DataFrame = _pandas().DataFrame(facts, index=table.index)
        joined: pd.DataFrame = table.join(facts_table)
        return joined

    @cached_property
    def configurations(self) -> pd.DataFrame:
        """A row a configuration: its label under `configuration`, and all its settings."""
        table: pd.DataFrame = _pandas().read_parquet(self.folder / CONFIGURATIONS)
        return table

    @cached_property
    def timings(self) -> pd.DataFrame:
        """A row a unit of all runs: when it was finished, how many pictures in how many seconds."""
        table: pd.DataFrame = _pandas().read_parquet(self.folder / TIMINGS)
        return table

    @cached_property
    def failures(self) -> pd.DataFrame:
        """The rows that the last run tried in vain: what they are, `attempts` and `reason`."""
        names = ["id", "configuration", "prompt", "seed", "attempts", "reason"]
        lines = [*read_lines(self.folder / FAILURES)]
        table: pd.DataFrame = _pandas().DataFrame(lines, columns=names)
        return table

    @cached_property
    def missing(self) -> pd.DataFrame:
        """The rows of the plan whose pictures are not there: `id` and what they are."""
        there = {*self.pictures["id"]}
        rows = [
            {
                "id": row.id,
                "configuration": self.plan.configurations[row.configuration].label,
                "prompt": row.prompt,
                "seed": row.seed,
            }
            for row in self.plan.rows()
            if row.id not in there
        ]
        names = ["id", "configuration", "prompt", "seed"]
        table: pd.DataFrame = _pandas().DataFrame(rows, columns=names)
        return table

    @property
    def complete(self) -> bool:
        """Whether every picture is there."""
        return len(self.pictures) == len(self.plan)

    def paths(self, configuration: str | int | Configuration) -> list[Path]:
        """The pictures of a configuration that are there, in the order of prompt and seed.

        Args:
            configuration: Its label or number.

        Raises:
            KeyError: If there is no such configuration.
        """
        label = self.plan.configuration(configuration).label
        table = self.pictures
        found = table.loc[table["configuration"] == label, "path"]
        return [self.folder / path for path in found]


def stored_sweep(plan: Plan) -> str:
    """The text of `sweep.json`."""
    return json.dumps(
        {
            "version": _VERSION,
            "sweep": plan.sweep.model_dump(mode="json", by_alias=True),
            "identity": {**plan.identity.to_dict(), "files": dict(plan.identity.files)},
        },
        indent=1,
        ensure_ascii=False,
    )


def _pandas() -> Any:
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError(
            "results of sweeps need pandas: pip install 'smoothed-energy[measure]'"
        ) from error
