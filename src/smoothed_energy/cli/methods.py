"""``smoothed-energy methods``: the guidance methods, what they perturb and what they cost."""

from __future__ import annotations

__all__ = ["command"]

import json
from typing import Annotated

import typer


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the guidance methods: what they perturb, their cost, source and settings."""
    from dataclasses import asdict

    from ..methods import METHODS

    if as_json:
        listing = {
            name: {**asdict(cls.about), "defaults": cls().to_dict()}
            for name, cls in METHODS.items()
        }
        typer.echo(json.dumps(listing, indent=2))
        return

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in ("perturbs", "a guided step costs", "source", "caveat"):
        table.add_column(name, overflow="fold")
    for name, cls in METHODS.items():
        about = cls.about
        caveat = about.caveat + ("; give it with --stack" if cls.limits_cfg else "")
        table.add_row(name, about.perturbs, about.cost, about.source, caveat)
    console = Console()
    console = console if console.is_terminal else Console(width=240)
    console.print(table)
