"""A configuration: the settings that a set of pictures have in common."""

from __future__ import annotations

__all__ = ["Configuration", "PictureSettings", "check_setting_name", "value_text"]

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from ..guidance.guidance import Guidance
from ..methods import METHODS, as_guidances, guidance_from_dict, guidance_to_text
from ..settings.checks import check_count, check_number, check_text
from .names import unknown_name

_PART = "guidance."
#: Schedulers have as many timesteps.
_MOST_STEPS = 1000
_MOST_PIXELS_A_SIDE = 16_384
#: What stands for no guidance.
NONE = "none"


@dataclass(frozen=True)
class PictureSettings:
    """What a picture is drawn with, apart from its prompt and its seed.

    Args:
        guidance: The guidances that act, in the order in which they are attached.
        cfg: The scale of classifier-free guidance; 1 is off.
        num_inference_steps: Denoising steps.
        size: Height and width in pixels; None is the model's own.
        negative_prompt: What not to draw; needs `cfg` above 1.
        scheduler: The name of a scheduler of `diffusers`, made from the configuration of the
            model's own; None is that one.
        control: The path of a picture that the sweep's ControlNet follows.
        control_scale: How strictly it is followed.
    """

    guidance: tuple[Guidance, ...] = ()
    cfg: float = 1.0
    num_inference_steps: int = 30
    size: tuple[int, int] | None = None
    negative_prompt: str = ""
    scheduler: str | None = None
    control: str | None = None
    control_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.negative_prompt and self.cfg <= 1:
            raise ValueError(
                f"negative_prompt={self.negative_prompt!r} has no effect with cfg={self.cfg:g}; "
                "expected cfg above 1"
            )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> PictureSettings:
        """Settings from the values of a file.

        Args:
            values: Values by their names; `guidance.NAME` changes a setting of the first guidance.

        Raises:
            ValueError: If a name is unknown, or a value is not understood.
        """
        plain: dict[str, Any] = {}
        parts: dict[str, Any] = {}
        for name, value in values.items():
            check_setting_name(name)
            if name.startswith(_PART):
                parts[name.removeprefix(_PART)] = value
            else:
                plain[name] = _READ[name](value)
        if parts:
            plain["guidance"] = _with_parts(plain.get("guidance", ()), parts)
        return cls(**plain)

    def value(self, name: str) -> str | float | None:
        """A setting as a number or a text, for labels and tables; None if there is none."""
        if name.startswith(_PART):
            settings = self.guidance[0].to_dict() if self.guidance else {}
            return _scalar(settings.get(name.removeprefix(_PART)))
        if name == "guidance":
            return " + ".join(map(guidance_to_text, self.guidance)) or NONE
        if name == "size":
            return None if self.size is None else "{}x{}".format(*self.size)
        return _scalar(getattr(self, name))

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values, all of them, guidances in full."""
        settings = {one.name: getattr(self, one.name) for one in fields(self)}
        settings["guidance"] = [guidance.to_dict() for guidance in self.guidance]
        settings["size"] = None if self.size is None else list(self.size)
        return settings


@dataclass(frozen=True)
class Configuration:
    """A configuration of a sweep.

    Args:
        index: Its number in the sweep.
        label: What tells it from the others, in a few words.
        settings: What its pictures are drawn with.
        varying: The settings in which the configurations of the sweep differ, by name.
        digest: The digest of all that determines its pictures, apart from prompt and seed.
    """

    index: int
    label: str
    settings: PictureSettings
    varying: Mapping[str, str | float | None] = field(default_factory=dict)
    digest: str = ""


def _scalar(value: Any) -> str | float | None:
    plain = isinstance(value, (str, int, float, type(None))) and not isinstance(value, bool)
    return value if plain else str(value)


@cache
def _setting_names() -> tuple[str, ...]:
    parts = dict.fromkeys([one.name for cls in METHODS.values() for one in fields(cls)])
    return (*[one.name for one in fields(PictureSettings)], *[_PART + name for name in parts])


def check_setting_name(name: object) -> None:
    """Refuse what is not the name of a setting.

    Raises:
        ValueError: If it is not; the message suggests the nearest one.
    """
    known = _setting_names()
    if name not in known:
        raise ValueError(unknown_name(name, known, "a setting of a picture"))


def value_text(value: object) -> str:
    """A value in a label: 3.0 is 3."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def _with_parts(guidances: tuple[Guidance, ...], parts: Mapping[str, Any]) -> tuple[Guidance, ...]:
    if not guidances:
        names = ", ".join(f"guidance.{name}={value!r}" for name, value in parts.items())
        raise ValueError(
            f"{names} needs a guidance to change; expected one in `guidance`, or the unguided "
            "configuration under `list`"
        )
    changed = {**guidances[0].to_dict(), **parts}
    try:
        first = guidance_from_dict(changed)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return (first, *guidances[1:])


def _guidances(value: Any) -> tuple[Guidance, ...]:
    if value is None or (isinstance(value, str) and value.strip().lower() == NONE):
        return ()
    try:
        return as_guidances(value)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _cfg(value: Any) -> float:
    cfg = check_number("cfg", value)
    if not 1 <= cfg < math.inf:
        raise ValueError(f"cfg={value!r}: expected a finite number from 1 (off) up")
    return cfg


def _steps(value: Any) -> int:
    steps = check_count("num_inference_steps", value)
    if steps > _MOST_STEPS:
        raise ValueError(f"num_inference_steps={steps}: expected at most {_MOST_STEPS}")
    return steps


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    parts: Any = value.lower().split("x") if isinstance(value, str) else value
    if isinstance(parts, int) and not isinstance(parts, bool):
        parts = (parts, parts)
    try:
        height, width = (int(part) for part in parts)
    except (TypeError, ValueError):
        height = width = 0
    if not (min(height, width) >= 1 and max(height, width) <= _MOST_PIXELS_A_SIDE):
        raise ValueError(
            f"size={value!r}: expected HEIGHTxWIDTH in pixels, such as 512x768, at most "
            f"{_MOST_PIXELS_A_SIDE}"
        )
    return height, width


def _text(name: str) -> Any:
    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{name}={value!r}: expected a text")
        check_text(name, value, 20_000)
        return value

    return read


def _scheduler(value: Any) -> str | None:
    if value is None:
        return None
    import diffusers

    known = [
        name
        for name in dir(diffusers)
        if name.endswith("Scheduler") and hasattr(getattr(diffusers, name), "from_config")
    ]
    if value not in known:
        raise ValueError(unknown_name(value, known, "a scheduler of diffusers"))
    if value == "DPMSolverSDEScheduler":
        raise ValueError(
            "scheduler='DPMSolverSDEScheduler' draws noise for a whole batch and not by seed, so "
            "a picture would depend on the others; expected another"
        )
    return str(value)


_READ: dict[str, Any] = {
    "guidance": _guidances,
    "cfg": _cfg,
    "num_inference_steps": _steps,
    "size": _size,
    "negative_prompt": _text("negative_prompt"),
    "scheduler": _scheduler,
    "control": lambda value: None if value is None else _text("control")(value),
    "control_scale": lambda value: check_number("control_scale", value),
}


def canonical_json(value: Any) -> str:
    """JSON with one form for one value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
