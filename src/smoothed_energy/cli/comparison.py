"""The sheet of a comparison: the same seeds without guidance and with it."""

from __future__ import annotations

__all__ = ["comparison_sheet"]

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .generate_settings import GenerateSettings

if TYPE_CHECKING:
    from PIL import Image


def comparison_sheet(
    settings: GenerateSettings, images: Mapping[tuple[int, bool], Image.Image]
) -> Image.Image:
    """The images of a comparison, unguided above guided, with the settings in words.

    Args:
        settings: The settings of the run.
        images: The images, by seed and by whether they are guided.
    """
    from ..report import Series, contact_sheet

    seeds = settings.seeds
    return contact_sheet(
        [
            Series("unguided", [images[seed, False] for seed in seeds]),
            Series("guided", [images[seed, True] for seed in seeds], _guidance_in_words(settings)),
        ],
        columns=[f"seed {seed}" for seed in seeds],
        title=f"“{settings.prompt}”" if settings.prompt else "No prompt",
        subtitle="  ·  ".join(_facts(settings)),
    )


def _guidance_in_words(settings: GenerateSettings) -> str:
    scale = f"{settings.scale:g}" if isinstance(settings.scale, float) else settings.scale
    what = settings.method if settings.blur is None else f"{settings.method}   {settings.blur}"
    detail = what if settings.scale is None else f"{what}   scale {scale}"
    if settings.layers is not None:
        detail += f"   layers {settings.layers}"
    detail += f"   steps {settings.steps}"
    if settings.formulation not in ("conditional", None):
        detail += f"   {settings.formulation}"
    return "   +   ".join([detail, *settings.stack])


def _facts(settings: GenerateSettings) -> list[str]:
    """What guided and unguided images have in common."""
    facts = [settings.model, f"{settings.num_inference_steps} steps"]
    facts.append(f"cfg {settings.cfg:g}" if settings.cfg > 1 else "no cfg")
    if settings.is_controlled:
        strength = "" if settings.control_scale == 1 else f" at {settings.control_scale:g}"
        facts.append(f"edges followed{strength}")
    if settings.negative_prompt:
        facts.append(f"without “{settings.negative_prompt}”")
    return facts
