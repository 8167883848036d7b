"""Checks of settings of ``generate`` that their kind alone does not make."""

from __future__ import annotations

__all__ = ["LAST_SEED", "check_settings"]

from .generate_settings import DTYPES, GenerateSettings
from .setting_kinds import check_size

#: The largest seed of torch's random generators.
LAST_SEED = 2**64 - 1

#: A run keeps a path for each image, and a comparison the images, for a sheet with all of them.
MOST_IMAGES, MOST_COMPARED = 10_000, 256
#: Schedulers have as many timesteps.
MOST_STEPS = 1000
MOST_STACKED = 16


def check_settings(settings: GenerateSettings) -> None:
    """Refuse values out of range, and settings that contradict each other.

    Raises:
        ValueError: If there are any.
    """
    _check_numbers(settings)
    if len(settings.stack) > MOST_STACKED:
        raise ValueError(
            f"--stack: {len(settings.stack)} guidances; expected at most {MOST_STACKED}"
        )
    _check_control(settings)
    if settings.dtype not in DTYPES:
        raise ValueError(f"--dtype {settings.dtype}: expected one of {', '.join(DTYPES)}")
    if settings.negative_prompt and settings.cfg <= 1:
        raise ValueError(
            f"--negative-prompt has no effect with --cfg {settings.cfg:g}; expected a --cfg above 1"
        )


def _check_numbers(settings: GenerateSettings) -> None:
    together = " with --compare" if settings.compare else ""
    most = MOST_COMPARED if settings.compare else MOST_IMAGES
    if settings.count > most:
        raise ValueError(
            f"--count {settings.count}{together}: expected at most {most}; `smoothed-energy sweep` "
            "draws more"
        )
    if settings.num_inference_steps > MOST_STEPS:
        raise ValueError(
            f"--num-inference-steps {settings.num_inference_steps}: expected at most {MOST_STEPS}"
        )
    if settings.size is not None:
        check_size(settings.size)
    if settings.seed + settings.count - 1 > LAST_SEED:
        count = "" if settings.count == 1 else f" with --count {settings.count}"
        raise ValueError(
            f"--seed {settings.seed}{count}: expected seeds of at most {LAST_SEED} (2**64 - 1)"
        )
    # Pipelines do no CFG at scales up to 1; 0 is how distilled models are told so.
    if not (settings.cfg == 0 or 1 <= settings.cfg < float("inf")):
        raise ValueError(f"--cfg {settings.cfg:g}: expected a finite number >= 1 (1 or 0 is off)")


def _check_control(settings: GenerateSettings) -> None:
    if settings.control and settings.canny:
        raise ValueError(
            f"--control {settings.control} and --canny {settings.canny}: there can be only one "
            "picture to follow"
        )
    if settings.controlnet and not settings.is_controlled:
        raise ValueError(
            f"--controlnet {settings.controlnet} has nothing to follow; expected --control or "
            "--canny"
        )
    if settings.is_controlled and not settings.controlnet:
        raise ValueError(
            f"no ControlNet comes with {settings.model}; expected --controlnet with a folder or a "
            "hub id"
        )
    if not 0 <= settings.control_scale < float("inf"):
        raise ValueError(
            f"--control-scale {settings.control_scale:g}: expected a finite number >= 0"
        )
