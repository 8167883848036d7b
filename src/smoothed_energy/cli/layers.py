"""``smoothed-energy layers``: every self-attention layer of a model, with its codes."""

from __future__ import annotations

__all__ = ["command"]

import json
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .generate_settings import DEFAULT_MODEL
from .setting_kinds import check_texts, parse_size
from .terminal import note

if TYPE_CHECKING:
    from torch import nn

    from ..families.advice import Advice


def command(
    model: Annotated[
        str,
        typer.Argument(help="A model of this package, a folder, or an id of the Hugging Face hub."),
    ] = DEFAULT_MODEL,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Image size for the grids. Default: the model's."),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="Frames of the latents, for models of video. Default: 1."),
    ] = None,
    select: Annotated[
        str, typer.Option(help="Only these layers, as for `generate --layers`.")
    ] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List a model's self-attention layers: codes, token grid, heads and width.

    Only the model's configuration is read, not its weights.
    """
    check_texts("MODEL", model)
    check_texts("--select", select)
    pixels = None if size is None else parse_size(size)

    from .opening import open_shape
    from .published import advice_for

    denoiser, factor = open_shape(model)

    from ..families import family_or_unknown
    from ..families.layer_selection import select_layers

    if pixels is None:
        pixels = _own_size(denoiser, factor)
    if pixels[0] % factor or pixels[1] % factor:
        raise ValueError(f"--size {size}: expected multiples of {factor} for {model}")
    latents: tuple[int, ...] = (pixels[0] // factor, pixels[1] // factor)
    if frames is not None:
        latents = (frames, *latents)

    rows: list[dict[str, Any]] = []
    family = family_or_unknown(denoiser)
    if family.is_unknown:
        from ..families import note_found
        from .looked_at import found_by_looking

        family = found_by_looking(denoiser, latents)
        note_found(denoiser, family)
        note(
            f"no family knows a {type(denoiser).__name__}; this is what a few calls with random "
            "weights show, and what attach(..., guide_unknown=True) looks for"
        )
    for layer in select_layers(denoiser, select):
        grid = family.layer_grid(denoiser, layer, latents)
        if frames is not None and len(grid) == 2:
            raise ValueError(f"--frames {frames}: {model} makes still pictures; leave --frames out")
        rows.append(
            {
                "code": layer.code,
                "dotted": layer.dotted,
                "part": layer.part,
                "module": layer.name,
                "grid": list(grid),
                "tokens": prod(grid),
                "heads": layer.heads,
                "width": layer.width,
            }
        )
    advice = advice_for(denoiser)
    if as_json:
        listing = {
            "model": model,
            "denoiser": type(denoiser).__name__,
            "size": list(pixels),
            "layers": rows,
            "published": {
                method: {**found.settings, "source": found.source}
                for method, found in advice.items()
            },
        }
        typer.echo(json.dumps(listing, indent=2))
    else:
        _print_table(f"{model} at {pixels[0]}x{pixels[1]}", rows)
        _print_published(advice)


def _print_published(advice: Mapping[str, Advice]) -> None:
    for method, found in advice.items():
        settings = "; ".join([f"{name}={value}" for name, value in found.settings.items()])
        typer.echo(f"published for {method}: {settings} ({found.source})")
    if not advice:
        typer.echo(
            "Nothing is published of layers for this model; `smoothed-energy methods --model` "
            "tells what methods take."
        )


def _own_size(denoiser: nn.Module, factor: int) -> tuple[int, int]:
    size: Any = getattr(denoiser.config, "sample_size", None)
    if size is None:
        raise ValueError("the model does not tell its image size; give one with --size HxW")
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and 0 < side < 2**20 for side in sides):
        raise ValueError(
            f"the model's configuration has sample_size={size!r}, which is no image size; give one "
            "with --size HxW"
        )
    return sides[0] * factor, sides[1] * factor


def _print_table(title: str, rows: list[dict[str, Any]]) -> None:
    from .terminal import print_table

    numbers = ("grid", "tokens", "heads", "width")
    names = ("layer", "dotted", "part", "module")
    ends = [
        number
        for number, (row, following) in enumerate(pairwise(rows))
        if row["part"] != following["part"]
    ]
    print_table(
        (*names, *numbers),
        [
            [
                *(row[name] for name in ("code", "dotted", "part", "module")),
                "x".join(map(str, row["grid"])),
                *(row[name] for name in ("tokens", "heads", "width")),
            ]
            for row in rows
        ],
        title=title,
        right=numbers,
        whole=("layer", "dotted", "part", *numbers),
        sections=ends,
    )
