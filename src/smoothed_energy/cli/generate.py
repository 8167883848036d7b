"""``smoothed-energy generate``: pictures, with and without guidance."""

from __future__ import annotations

__all__ = ["command"]

from typing import Any

from .generate_settings import GenerateSettings
from .option import option_signature
from .terminal import waiting


def command(**options: Any) -> None:
    """Draw images with smoothed energy guidance, each a PNG that remembers its settings.

    Images that are there already, drawn with the same settings, are kept: a run that was
    interrupted goes on where it was.
    """
    with waiting("loading"):  # to be seen while torch and diffusers are imported
        from .generation import prepare

        drawing = prepare(options)
    drawing.run()


# Typer makes the options from the signature.
command.__signature__ = option_signature(GenerateSettings)  # type: ignore[attr-defined]
