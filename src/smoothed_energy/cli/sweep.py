"""``smoothed-energy sweep``: the pictures of a sweep's file, as many as are missing."""

from __future__ import annotations

__all__ = ["command"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..settings.printable import printable
from .terminal import note, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..evaluation import Value
    from ..sweeps import Plan, Results


def command(  # noqa: PLR0913 - each is an option
    file: Annotated[Path, typer.Argument(help="A sweep in YAML; docs/sweeps.md tells its keys.")],
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what would be drawn, and what is there already."),
    ] = False,
    limit: Annotated[int | None, typer.Option(min=0, help="Draw so many pictures at most.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that draw. Default: one a core, or one a GPU."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures that a worker draws at a time.")
    ] = 4,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help='Draw on a Ray cluster: "auto" on one of its nodes, HOST:PORT, or "local".',
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Default: what the file says, or out/NAME."),
    ] = None,
) -> None:
    """Draw the pictures of a sweep that are missing; again, after anything went wrong.

    The exit code is 0 if all pictures are there, 1 if some are missing, and 2 if the sweep can't be
    run.
    """
    try:
        from ..sweeps import (
            SweepStopped,
            check_measurement,
            measure,
            output_folder,
            plan,
            read_sweep,
            run,
        )
        from ..sweeps.progress import Bar, Lines

        sweep = read_sweep(file)
        check_measurement(sweep)
        if dry_run:
            _print_plan(plan(sweep), output_folder(sweep, out))
            return
        results = run(
            sweep,
            out,
            workers=workers,
            batch_size=batch_size,
            limit=limit,
            progress=Bar() if ray is None else Lines(),
            ray=ray,
        )
    except ImportError as error:
        raise ValueError(str(error)) from error
    except SweepStopped as error:
        note(f"error: {error}")
        raise typer.Exit(1) from None
    _print_results(results)
    if not results.complete:
        raise typer.Exit(1)
    if sweep.metrics:
        _print_metrics(measure(results))


def _print_plan(plan: Plan, folder: Path) -> None:
    from ..sweeps import count_done

    done = count_done(plan, folder)
    print_table(
        ("configuration", "pictures", "there"),
        [
            (configuration.label, plan.pictures_each, there)
            for configuration, there in zip(plan.configurations, done, strict=True)
        ],
        right=("pictures", "there"),
        whole=("pictures", "there"),
    )
    typer.echo(
        f"{len(plan)} pictures of {len(plan.configurations)} configurations, "
        f"{sum(done)} of them in {printable(str(folder))}, {len(plan) - sum(done)} to draw"
    )


def _print_metrics(found: Mapping[str, list[Value]]) -> None:
    first = next(iter(found.values()))
    names = [value.name for value in first]
    print_table(
        ("configuration", *names),
        [(label, *(value.text for value in values)) for label, values in found.items()],
        caption=first[0].intervals,
        right=names,
    )


def _print_results(results: Results) -> None:
    folder = printable(str(results.folder))
    typer.echo(f"{len(results.pictures)} of {len(results.plan)} pictures are in {folder}")
    failures = results.failures
    if not failures.empty:
        first = failures.iloc[0]
        note(
            f"{len(failures)} failed, as {results.folder / 'failures.jsonl'} tells; the first: "
            f"{first['configuration']}, seed {first['seed']}: {first['reason']}"
        )
