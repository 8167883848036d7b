"""The command ``smoothed-energy``.

Modules here import torch and diffusers only inside the functions that need them, so that ``--help``
and mistakes in the options are answered at once.
"""

from __future__ import annotations

__all__ = ["app", "main"]

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from ..settings.printable import one_line
from . import evaluate, generate, layers, methods, reproduce, sweep
from .failures import message_of

# A command line mistake; Typer brings its own copy of Click or uses the installed one, by version.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="smoothed-energy",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("generate")(generate.command)
app.command("layers")(layers.command)
app.command("methods")(methods.command)
app.command("evaluate")(evaluate.command)
app.command("reproduce")(reproduce.command)
app.command("sweep")(sweep.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"smoothed-energy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Sample diffusion models with smoothed energy guidance (SEG), which needs no training."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    What can't be done with the options, files and memory that there are is one line on standard
    error and exit code 2. Anything else is a defect of this program and keeps its traceback.

    Args:
        arguments: The arguments; by default those the process was started with.
    """
    try:
        code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except _UsageError as error:
        show = getattr(error, "format_message", error.__str__)
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(show())
            return 0
        return _fail(show())
    except (KeyboardInterrupt, typer.Abort):
        code = 130  # some versions of Typer return this, some raise
    except BrokenPipeError:
        return _output_closed()
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        return _fail(message)
    if code == 130:
        typer.echo("stopped", err=True)
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    typer.echo(f"error: {one_line(message)}", err=True)
    return 2


def _output_closed() -> int:
    """End as others do when nobody reads their output any more, as behind `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
