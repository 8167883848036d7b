"""``smoothed-energy reproduce``: the tables and figures of the papers, on a page."""

from __future__ import annotations

__all__ = ["command"]

import shlex
import sys
from typing import Any

import typer

from ..models.device import check_device
from .option import option_signature, settings_of
from .reproduce_settings import ReproduceSettings
from .terminal import note, print_path


def command(**options: Any) -> None:
    """Make tables and figures of the papers: pictures, numbers with intervals, a page to read.

    What is drawn and measured already is not made again, so a run that was stopped goes on, and
    more samples add to those that are there.
    """
    settings = settings_of(ReproduceSettings, options)
    settings.check()
    try:
        _reproduce(settings)
    # What is missing, or can't be read or written, is not a defect of this program.
    except (ImportError, OSError) as error:
        raise ValueError(str(error)) from error


command.__signature__ = option_signature(ReproduceSettings)  # type: ignore[attr-defined]


def _reproduce(settings: ReproduceSettings) -> None:
    from ..experiments import EXPERIMENTS, experiments_named

    if settings.listing or not settings.names:
        for experiment in EXPERIMENTS.values():
            typer.echo(f"{experiment.name:16} {experiment.source:26} {experiment.question}")
        if not settings.listing:
            raise ValueError("which experiments? expected some of these names, or all")
        return
    names = [name.strip() for name in settings.names.split(",") if name.strip()]
    chosen = experiments_named(names)
    if settings.device != "auto":
        check_device(settings.device)

    from ..experiments.reproduce import reproduce
    from ..experiments.study import Scope, Study
    from ..experiments.subject import subject_of
    from ..sweeps.progress import Bar

    subject = subject_of(
        settings.model,
        reference=settings.reference,
        captions=settings.captions,
        square=settings.square,
    )
    scope = Scope(
        samples=settings.samples,
        selection=min(settings.selection, settings.samples),
        pilots=min(settings.pilots, settings.samples),
        workers=settings.workers,
        batch_size=settings.batch_size,
        device=settings.device,
        dtype=settings.dtype,
        ray=settings.ray,
    )
    study = Study(subject, settings.out, scope, Bar())
    outcome = reproduce(
        chosen,
        study,
        command=shlex.join(["smoothed-energy", *sys.argv[1:]]),
        tell=note,
    )
    print_path(outcome.page)
    print_path(outcome.numbers)
    if outcome.failed:
        raise typer.Exit(1)
