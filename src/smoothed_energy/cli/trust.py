"""What an image of a stranger would have loaded, and whether the user said that it may."""

from __future__ import annotations

__all__ = ["check_trusted"]

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..models.locations import available, embedded_controlnets
from ..settings.text import split_settings
from .generate_settings import GenerateSettings
from .terminal import note


def check_trusted(
    settings: GenerateSettings, given: Mapping[str, Any], stored: Mapping[str, Any]
) -> None:
    """Tell what the image of ``--from`` has loaded; refuse it without ``--trust``.

    It is called before anything that the image names is looked for.

    Args:
        settings: The settings of the run.
        given: What the command line tells; None for what it does not.
        stored: What the image tells.

    Raises:
        ValueError: If it is something else than models of this package, and not trusted.
    """
    of_image = {name for name in stored if given.get(name) is None}
    foreign = ", ".join(dict.fromkeys(_foreign(settings, of_image)))
    if not foreign:
        return
    if not settings.trust:
        raise ValueError(
            f"--from {settings.source}: the image asks to load {foreign}; expected --trust to "
            "allow that, or options in place of it"
        )
    source = Path(settings.source or "").name
    note(f"note: loading {foreign}, as {source} asks")


def _foreign(settings: GenerateSettings, of_image: set[str]) -> Iterator[str]:
    if "model" in of_image and settings.model not in available():
        yield f"the model {settings.model!r}"
    if "controlnet" in of_image and settings.controlnet is not None:
        own = embedded_controlnets(settings.model) if settings.model in available() else []
        if settings.controlnet not in own:
            yield f"the ControlNet {settings.controlnet!r}"
    texts = [settings.method] if "method" in of_image else []
    texts += settings.stack if "stack" in of_image else ()
    for text in texts:
        weak = split_settings(text)[1].get("weak")
        if weak is not None:
            yield f"the weaker denoiser weak={weak!r}"
