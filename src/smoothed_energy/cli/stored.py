"""What an image remembers of the run that drew it."""

from __future__ import annotations

__all__ = ["check_stored", "read_stored", "remembered"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .generate_settings import OPTIONS, GenerateSettings

_MADE_WITH = "made_with"


def remembered(settings: GenerateSettings) -> dict[str, Any]:
    """What is stored in an image: the settings, and the versions of what made it."""
    import diffusers
    import torch

    from .. import __version__

    versions = {
        "smoothed-energy": __version__,
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
    }
    return {**settings.to_dict(), _MADE_WITH: versions}


def read_stored(path: Path) -> dict[str, Any]:
    """The settings in an image, unchecked, without the versions.

    Raises:
        ValueError: If the image cannot be read, or this program did not write it.
    """
    from ..report import read_settings

    stored = read_settings(path)
    stored.pop(_MADE_WITH, None)
    return stored


def check_stored(stored: Mapping[str, Any]) -> None:
    """Refuse what an image remembers if it is not what this program writes.

    Raises:
        ValueError: If a setting is unknown, or its value is of another kind.
    """
    for name, value in stored.items():
        if name not in OPTIONS or not OPTIONS[name].is_remembered:
            raise ValueError(f"--from: the image has an unknown setting {name!r}")
        kind = OPTIONS[name].kind
        if not kind.accepts(value):
            raise ValueError(
                f"--from: the image's setting {name}={value!r} cannot be read; "
                f"expected {kind.words}"
            )
