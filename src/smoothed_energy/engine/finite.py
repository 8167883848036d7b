"""Whether what a run computed are numbers, asked when it is over.

The largest magnitude of latents and predictions is found on their device as the run goes on, and
read at its end: nothing waits for the device in between.
"""

from __future__ import annotations

__all__ = ["LARGEST", "NonFiniteError", "Seeable", "Seen", "check_finite"]

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..guidance.negative_guidance import NegativeGuidance

#: Numbers count as finite up to the root of the largest float32: layers that normalise square them.
LARGEST = math.sqrt(torch.finfo(torch.float32).max)


class NonFiniteError(ValueError):
    """Latents or predictions of a run, or what it gave, are not finite numbers."""


#: What the size of is noted.
Seeable: TypeAlias = (
    "Literal['latents', 'clean', 'guided', 'combined', 'final latents', 'pictures']"
    " | NegativeGuidance"
)


class Seen(NamedTuple):
    """How large something in a run became.

    Args:
        what: The `"latents"` that a denoiser is called with, the `"clean"` prediction that it
            makes of them, a guidance whose difference of predictions it is, the `"guided"`
            prediction or the correction in it, the prediction `"combined"` with CFG where that is
            seen, and what a pipeline returns.
        largest: The largest magnitude, `()`, where it was computed; NaN if there is one.
        timestep: Of latents, the timestep that the denoiser is told with them.
    """

    what: Seeable
    largest: Tensor
    timestep: Tensor | float | None = None


def check_finite(seen: Sequence[Seen], cfg_scale: float | None = None) -> None:
    r"""Check that all that was seen of a run is finite.

    Args:
        seen: What was seen, in this order.
        cfg_scale: CFG's $g$ where the run has CFG; None if it has none, or it is not known.

    Raises:
        NonFiniteError: If something is not; it names the first, and what may have made it so.
    """
    if not seen:
        return
    device = seen[0].largest.device
    values = torch.stack([item.largest.to(device, torch.float32) for item in seen]).tolist()
    last = 0.0  # of the last prediction, until something is seen that was made of it
    for place, (item, value) in enumerate(zip(seen, values, strict=True)):
        if not _is_finite(value):
            if item.what == "pictures":
                _check_combined(last, cfg_scale)
            raise NonFiniteError(_message(seen[: place + 1], values[: place + 1], cfg_scale))
        last = value if item.what in ("clean", "guided") else 0.0
    _check_combined(last, cfg_scale)


def _is_finite(value: float) -> bool:
    return value < LARGEST  # which NaN is not


def _check_combined(prediction: float, cfg_scale: float | None) -> None:
    """Check what CFG makes of the last prediction: no later step shows it.

    Raises:
        NonFiniteError: If that is too large.
    """
    if cfg_scale is not None and not _is_finite(abs(cfg_scale) * prediction):
        raise NonFiniteError(
            f"the last prediction, of {prediction:.3g} at most, is not finite after "
            f"{_cfg(cfg_scale)}, which is the pipeline's own; expected a lower scale"
        )


def _message(seen: Sequence[Seen], values: Sequence[float], cfg_scale: float | None) -> str:
    """Why the last of what was seen, the first that is not finite, may be so.

    Args:
        seen: What was seen up to there.
        values: The magnitudes.
        cfg_scale: CFG's scale, if it is known.
    """
    what, value = seen[-1].what, f"{values[-1]:.3g}"
    acting = dict.fromkeys([item.what for item in seen if isinstance(item.what, NegativeGuidance)])
    settings = " and ".join(map(repr, acting))
    largest = f"; the largest number before is {max(values[:-1], default=0.0):.3g}"
    if isinstance(what, NegativeGuidance):
        return (
            f"the perturbed prediction of {what!r} is not finite {_where(seen)}, and the clean one "
            f"is{largest}; expected other layers or settings, or a dtype of larger range"
        )
    if what == "guided":
        return (
            f"the guided prediction is not finite {_where(seen)} ({value}), and what it is made of "
            f"is{largest}; expected a lower scale of {settings}"
        )
    if what == "pictures":
        return (
            f"the pictures are not finite ({value}), and all latents and predictions are{largest}: "
            "that is the VAE's own overflow, and not the guidance's; expected the VAE in float32"
        )
    subject = {
        "latents": "the latents are",
        "clean": "the denoiser's own prediction is",
        "combined": "the guided prediction is",
        "final latents": "the final latents are",
    }[what]
    where = "" if what == "final latents" else f" {_where(seen)}"
    subject = f"{subject} not finite{where} ({value}){largest}"
    scales = [settings] if acting else []
    if cfg_scale is not None and len(seen) > 2:
        scales.append(_cfg(cfg_scale))
    if scales:
        return (
            f"{subject}; before it there was {' and '.join(scales)}: expected lower scales; if it "
            "is the same without, it is the model's own overflow (expected float32 or bfloat16)"
        )
    if what == "latents" and len(seen) == 1:
        return f"{subject}: the run began with them, before any guidance"
    return (
        f"{subject}: no guidance acted before it, so this is the model's own overflow; expected "
        "float32 or bfloat16"
    )


def _where(seen: Sequence[Seen]) -> str:
    """The step that the last of what was seen belongs to; a timestep that is repeated is one."""
    times = [_time(item.timestep) for item in seen if item.what == "latents"]
    if not times:
        return "in the first step"
    number = sum([time != before for time, before in zip(times[1:], times, strict=False)])
    at = "" if times[-1] is None else f" (timestep {times[-1]:g})"
    return f"at step {number}, counted from 0{at}"


def _time(timestep: Tensor | float | None) -> float | None:
    if isinstance(timestep, Tensor):
        return float(timestep.flatten()[0])
    return None if timestep is None else float(timestep)


def _cfg(scale: float) -> str:
    return f"classifier-free guidance at scale {scale:g}"
