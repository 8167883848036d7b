"""``smoothed-energy methods``: the guidance methods, what they perturb and what they cost."""

from __future__ import annotations

__all__ = ["LISTING", "command", "listing"]

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal import print_table

#: What `listing` says of this package's own methods, which need torch: seconds to import.
LISTING = Path(__file__).with_name("methods.json")


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the guidance methods: what they perturb, their cost, source and settings."""
    is_imported = f"{__name__.partition('.')[0]}.methods" in sys.modules
    found = listing() if is_imported else json.loads(LISTING.read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    columns = {"perturbs": "perturbs", "cost": "a guided step costs", "source": "source"}
    rows = []
    for name, about in found.items():
        caveat = about["caveat"] + ("; give it with --stack" if about["limits_cfg"] else "")
        rows.append([name, *(about[key] for key in columns), caveat])
    print_table(("method", *columns.values(), "caveat"), rows, whole=("method",), width=240)


def listing() -> dict[str, dict[str, Any]]:
    """All registered methods by name: what they say of themselves, and their default settings."""
    from dataclasses import asdict

    from ..methods import METHODS

    return {
        name: {**asdict(cls.about), "limits_cfg": cls.limits_cfg, "defaults": cls().to_dict()}
        for name, cls in METHODS.items()
    }
