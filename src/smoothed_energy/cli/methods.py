"""``smoothed-energy methods``: the guidance methods, what they perturb and what they cost."""

from __future__ import annotations

__all__ = ["LISTING", "command", "listing"]

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .setting_kinds import check_texts
from .terminal import print_table

#: What `listing` says of this package's own methods, which need torch: seconds to import.
LISTING = Path(__file__).with_name("methods.json")


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Print each method's layers, scale and steps for this model, and who says so.",
        ),
    ] = None,
) -> None:
    """List the guidance methods: what they perturb, their cost, source and settings."""
    if model is not None:
        _print_for_model(model, as_json=as_json)
        return
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


def for_model(model: str) -> dict[str, dict[str, Any]]:
    """The methods that have layers, with what they have for a model if they are told nothing.

    Raises:
        ValueError: If there is no such model.
    """
    from ..methods import METHODS
    from ..models import available
    from .opening import open_shape
    from .published import advice_for, with_published
    from .resolve import read_options, resolve_settings
    from .suited import suited_settings

    denoiser, _ = open_shape(model)
    advice = {} if model in available() else advice_for(denoiser)
    found = {}
    for name, cls in METHODS.items():
        if "layers" not in cls().to_dict():
            continue
        # What `generate` does if it is told no more.
        given = read_options({"model": model, "method": name})
        settings = with_published(resolve_settings(given, {}), given, {}, advice).to_dict()
        source = "nobody published any; the method's own"
        if name in advice:
            source = advice[name].source
        elif model in available() and (name == "seg" or suited_settings(model, name)):
            source = "the model's card"
        found[name] = {key: settings[key] for key in ("layers", "scale", "steps")}
        found[name]["source"] = source
    return found


def _print_for_model(model: str, *, as_json: bool) -> None:
    check_texts("--model", model)
    found = for_model(model)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    columns = ("layers", "scale", "steps", "source")
    rows = [[name, *(row[key] for key in columns)] for name, row in found.items()]
    print_table(("method", *columns), rows, title=model, whole=("method", *columns[:3]))


def listing() -> dict[str, dict[str, Any]]:
    """All registered methods by name: what they say of themselves, and their default settings."""
    from dataclasses import asdict

    from ..methods import METHODS

    return {
        name: {**asdict(cls.about), "limits_cfg": cls.limits_cfg, "defaults": cls().to_dict()}
        for name, cls in METHODS.items()
    }
