"""``smoothed-energy generate``: pictures, with and without guidance."""

from __future__ import annotations

__all__ = ["command"]

from typing import Any

from .generate_settings import GenerateSettings
from .option import option_signature
from .output import check_output, output_paths
from .resolve import read_options, resolve_settings
from .stored import read_stored


def command(**options: Any) -> None:
    """Draw images with smoothed energy guidance, each a PNG that remembers its settings."""
    source = options["source"]
    stored = {} if source is None else read_stored(source)
    settings = resolve_settings(read_options(options), stored)
    paths = output_paths(settings)
    check_output(settings, paths)

    from .generation import generate

    generate(settings, paths)


# Typer makes the options from the signature.
command.__signature__ = option_signature(GenerateSettings)  # type: ignore[attr-defined]
