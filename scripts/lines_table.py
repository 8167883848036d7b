"""How long a family and a method are: the table in `docs/lines.md`.

    python scripts/lines_table.py > docs/lines.md

Lines are those of the class, its docstring and comments counted, and of the module that it stands
in, imports and what it needs besides counted.
"""

from __future__ import annotations

import inspect
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from smoothed_energy.families import Family, Transformer, UNet, families
from smoothed_energy.methods import METHODS

ROOT = Path(__file__).parents[1]
HEADER = """# Lines of a family and of a method

How much code does a model, or a method, take? Made by `scripts/lines_table.py`.

A family says where attention is, how tokens lie and how the pipeline has CFG; a method says what is
computed instead. Neither names the other (`lint-imports`): all methods that are possible work in
all families
([table](methods-by-family.md)).
"""


def lines_of(cls: type) -> tuple[int, int, str]:
    """The lines of a class, of its module, and the module's path in the package."""
    path = Path(inspect.getfile(cls))
    module = len(path.read_text().splitlines())
    return len(inspect.getsourcelines(cls)[0]), module, path.relative_to(ROOT / "src").as_posix()


def bases_of(cls: type, of: type) -> str:
    """The classes that it has most from, but the base of all."""
    found = [base.__name__ for base in cls.__bases__ if issubclass(base, of) and base is not of]
    return ", ".join(f"`{name}`" for name in found)


def rows(classes: Iterable[tuple[str, type]], of: type) -> list[str]:
    """A row for each class, and one of medians."""
    named = sorted(classes, key=lambda each: each[0].lower())
    counted = [(name, cls, *lines_of(cls)) for name, cls in named]
    median = [round(statistics.median(each[key] for each in counted)) for key in (2, 3)]
    return [
        *(
            f"| {name} | {bases_of(cls, of)} | {lines} | {module} | `{path}` |"
            for name, cls, lines, module, path in counted
        ),
        f"| **median of {len(counted)}** | | **{median[0]}** | **{median[1]}** | |",
    ]


def table() -> str:
    """The page."""
    known = [(family.name, type(family)) for family in families()]
    shared = [(cls.__name__, cls) for cls in (Family, Transformer, UNet)]
    head = "| {} | derived from | class | module | where |\n|---|---|---:|---:|---|"
    parts = [
        HEADER,
        "## Families\n",
        head.format("family"),
        *rows(known, Family),
        "\nWhat they share:\n",
        head.format("class"),
        *rows(shared, Family)[:-1],
        "\n## Methods\n",
        head.format("method"),
        *rows(((f"`{name}`", cls) for name, cls in METHODS.items()), object),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
