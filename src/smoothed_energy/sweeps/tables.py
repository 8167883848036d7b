"""The tables of a sweep, written by the driver from the plan and the pictures that are there.

| file | what it holds |
|---|---|
| `sweep.json` | the sweep with its prompts, and what its pictures depend on |
| `configurations.parquet` | a row a configuration |
| `pictures.parquet` | a row a picture that is there, in the order of the plan |
| `failures.jsonl` | the rows that the last run tried in vain |
| `timings.jsonl`, `units/`, `timings.parquet` | how long each unit took, of all runs |

Nothing in the first three depends on how or when the pictures were drawn.
"""

from __future__ import annotations

__all__ = [
    "CONFIGURATIONS",
    "FAILURES",
    "PICTURES",
    "SWEEP",
    "TIMINGS",
    "UNITS",
    "TimingLog",
    "pyarrow",
    "read_lines",
    "read_units",
    "write_tables",
    "write_text",
]

import importlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import IO, Any

from ..files import whole_file
from .configuration import PictureSettings, canonical_json
from .pictures import PictureFolder
from .plan import Plan
from .todo import Failure
from .work import Outcome, Unit

SWEEP = "sweep.json"
PICTURES = "pictures.parquet"
CONFIGURATIONS = "configurations.parquet"
FAILURES = "failures.jsonl"
TIMINGS = "timings.parquet"
#: Where Ray writes what it says of the units, a folder a round.
UNITS = "units"
_LOG = "timings.jsonl"
_ROWS_AT_ONCE = 10_000


def pyarrow(part: str = "") -> Any:
    """The package pyarrow, or a module of it.

    Raises:
        ImportError: If it is not there.
    """
    try:
        return importlib.import_module(f"pyarrow{part}")
    except ImportError as error:
        raise ImportError(
            "tables of sweeps need pyarrow: pip install 'smoothed-energy[measure]'"
        ) from error


def write_tables(plan: Plan, folder: PictureFolder, failures: Iterable[Failure]) -> int:
    """Write all tables but `sweep.json`.

    Args:
        plan: The plan.
        folder: The pictures.
        failures: What was tried in vain.

    Returns:
        How many pictures are there.

    Raises:
        OSError: If one can't be written; those of before stay.
    """
    failed = {failure.row.index: failure for failure in failures}
    count = _write_pictures(plan, folder, failed)
    _write_configurations(plan, folder.root / CONFIGURATIONS)
    lines = [canonical_json(_failure(plan, failure)) for failure in failed.values()]
    write_text(folder.root / FAILURES, "".join(f"{line}\n" for line in lines))
    _write_timings(folder.root)
    return count


def _write_pictures(plan: Plan, folder: PictureFolder, failed: dict[int, Failure]) -> int:
    """Write the table of pictures; failures whose picture is there after all are dropped."""
    pa = pyarrow()
    varying = _varying_fields(plan)
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("configuration", pa.string()),
            *varying.items(),
            ("prompt", pa.string()),
            ("seed", pa.int64()),
            ("path", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("facts", pa.string()),
        ]
    )
    count = 0
    with whole_file(folder.root / PICTURES) as file, _parquet(file, schema) as writer:
        for rows in _chunks(_picture_rows(plan, folder, failed)):
            count += len(rows)
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return count


def _picture_rows(
    plan: Plan, folder: PictureFolder, failed: dict[int, Failure]
) -> Iterator[dict[str, Any]]:
    for row in plan.rows():
        drawn = folder.glance(row.id)
        if drawn is None:
            continue
        failed.pop(row.index, None)
        configuration = plan.configurations[row.configuration]
        yield {
            "id": row.id,
            "configuration": configuration.label,
            **_varying_values(plan, row.configuration),
            "prompt": row.prompt,
            "seed": row.seed,
            "path": folder.relative_path(row.id),
            "width": drawn.width,
            "height": drawn.height,
            "facts": canonical_json(dict(drawn.facts)),
        }


def _varying_fields(plan: Plan) -> dict[str, Any]:
    """The columns of what varies: numbers if all values are, else texts."""
    pa = pyarrow()
    fields = {}
    for name in plan.configurations[0].varying:
        values = [one.varying[name] for one in plan.configurations]
        numbers = all(isinstance(value, (int, float)) for value in values if value is not None)
        fields[name] = pa.float64() if numbers else pa.string()
    return fields


def _varying_values(plan: Plan, configuration: int) -> dict[str, Any]:
    text = {name for name, kind in _varying_fields(plan).items() if kind == pyarrow().string()}
    values = plan.configurations[configuration].varying
    return {
        name: str(value) if name in text and value is not None else value
        for name, value in values.items()
    }


def _write_configurations(plan: Plan, path: Path) -> None:
    pa = pyarrow()
    rows = []
    for one in plan.configurations:
        own = {name: one.settings.value(name) for name in PictureSettings.__dataclass_fields__}
        varying = _varying_values(plan, one.index)
        rows.append({"configuration": one.label, **own, **varying, "digest": one.digest})
    texts = ("guidance", "size", "scheduler", "control")
    names = [name for name in rows[0] if name not in texts]
    table = pa.Table.from_pylist(rows)
    for name in {*texts} - {*names}:  # columns of nothing else than null
        column = table.column(name).cast(pa.string())
        table = table.set_column(table.column_names.index(name), name, column)
    with whole_file(path) as file:
        pyarrow(".parquet").write_table(table, file)


def _failure(plan: Plan, failure: Failure) -> dict[str, Any]:
    row = failure.row
    return {
        "id": row.id,
        "configuration": plan.configurations[row.configuration].label,
        "prompt": row.prompt,
        "seed": row.seed,
        "attempts": failure.attempts,
        "reason": failure.reason,
    }


class TimingLog:
    """The log of units, to which every run adds lines as they are done.

    Args:
        root: The folder of the sweep.
    """

    def __init__(self, root: Path) -> None:
        # Unbuffered: nothing is left to be written when the disk is full.
        self._file = (root / _LOG).open("ab", buffering=0)

    def add(self, unit: Unit, outcome: Outcome, worker: int | str) -> None:
        """Note how long a unit took.

        Raises:
            OSError: If the disk is full.
        """
        line = {
            "finished": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "configuration": unit.configuration.label,
            "pictures": len(outcome.drawn),
            "seconds": round(outcome.seconds, 4),
            "worker": str(worker),
            "first": unit.rows[0].id,
        }
        self._file.write(f"{canonical_json(line)}\n".encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _write_timings(root: Path) -> None:
    """Write the log, and what Ray wrote of its units, as a table."""
    pa = pyarrow()
    schema = pa.schema(
        [
            ("finished", pa.string()),
            ("configuration", pa.string()),
            ("pictures", pa.int64()),
            ("seconds", pa.float64()),
            ("worker", pa.string()),
            ("first", pa.string()),
        ]
    )
    with whole_file(root / TIMINGS) as file, _parquet(file, schema) as writer:
        for rows in _chunks(chain(read_lines(root / _LOG), _units_of_ray(root))):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _units_of_ray(root: Path) -> Iterator[dict[str, Any]]:
    for folder in sorted((root / UNITS).glob("*")):
        for unit in read_units(folder):
            yield {**unit, "pictures": len(unit["drawn"]), "worker": "ray"}


def read_units(folder: Path) -> Iterator[dict[str, Any]]:
    """What Ray wrote of the units of a round; files that are half written are left out."""
    pa = pyarrow()
    for path in sorted(folder.glob("*.parquet")):
        try:
            units = pyarrow(".parquet").read_table(path).to_pylist()
        except (OSError, pa.ArrowInvalid):
            continue  # the disk was full, or the run was killed
        yield from units


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON values of a file's lines; one that a killed run left half written is no value."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


def write_text(path: Path, text: str) -> None:
    """Write a text so that the file is whole or as before."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def _parquet(file: IO[bytes], schema: Any) -> Any:
    return pyarrow(".parquet").ParquetWriter(file, schema)


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _ROWS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
