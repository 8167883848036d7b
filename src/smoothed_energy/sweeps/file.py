"""A sweep as people write it: the file's keys, and what they may hold."""

from __future__ import annotations

__all__ = ["Sweep", "SweepError", "read_sweep"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..files import read_text
from ..guidance.guidance import Guidance
from ..methods import guidance_to_text
from ..settings.checks import check_text
from .configuration import check_setting_name
from .names import unknown_name
from .seeds import read_seeds, seeds_text
from .yaml_text import read_yaml

try:
    from pydantic import (
        BaseModel,
        ConfigDict,
        Field,
        ValidationError,
        ValidationInfo,
        field_serializer,
        field_validator,
        model_validator,
    )
except ImportError as error:
    raise ImportError(
        "sweeps need pydantic, which is not installed; pip install 'smoothed-energy[measure]'"
    ) from error


#: The most bytes of a file of prompts.
_MOST_OF_PROMPTS = 256 * 2**20


class SweepError(ValueError):
    """A sweep that can't be run as it is written; the message says where and why."""


class Sweep(BaseModel):
    """Configurations, prompts and seeds: every picture that is to be drawn.

    Attributes:
        name: A short name, also that of its folder.
        model: `"avatars"`, a folder in diffusers' layout, or a hub id.
        dtype: Of the weights; `"auto"` is what suits the device.
        device: `"cpu"`, `"cuda"`, ...; `"auto"` is the best one of this machine.
        controlnet: A ControlNet: a name, a folder or a hub id. The setting `control` is then the
            picture that it follows.
        prompts: The prompts; an empty one is no prompt. A text is the path of a file with one
            prompt a line, relative to the sweep's file.
        seeds: The seeds, as `0-15,20` or a list.
        pairs: `"product"` draws every prompt with every seed, `"zip"` prompt i with seed i.
        base: The settings of all configurations, by the names of `PictureSettings`;
            `guidance.scale` and the like change a setting of the first guidance.
        axes: What varies. An axis is a mapping from settings to lists of values; several settings
            in one axis go together (zip), several axes are combined (product). A `label` in it
            names its values.
        listed: Further configurations, under the key `list`: settings beside `base`, each perhaps
            with a `label`. Without axes they are all there is.
        metrics: Metrics of each configuration's pictures, measured when all are drawn; see
            `measurement.measure`.
        against: What they are compared with: a folder of real pictures, or a file of statistics.
        features: The extractor of their features.
        trace: Whether facts of each picture's run are kept: its effective CFG scale, and the size
            of the correction.
        output: The folder; by default `out/NAME`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=80)
    model: str = "avatars"
    dtype: Literal["auto", "float32", "float16", "bfloat16", "float64"] = "auto"
    device: str = "auto"
    controlnet: str | None = None
    prompts: tuple[str, ...] = ("",)
    seeds: tuple[int, ...]
    pairs: Literal["product", "zip"] = "product"
    base: dict[str, Any] = Field(default_factory=dict)
    axes: tuple[dict[str, list[Any]], ...] = ()
    listed: tuple[dict[str, Any], ...] = Field(default=(), alias="list")
    metrics: tuple[str, ...] = ()
    against: str | None = None
    features: str = "efficientnet-lite0"
    trace: bool = False
    output: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data if isinstance(data, Mapping) else ():
            if key not in known and key not in cls.model_fields:
                raise ValueError(unknown_name(key, known, "a key of a sweep"))
        return data

    @field_validator("prompts", mode="before")
    @classmethod
    def _read_prompts(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        path = Path((info.context or {}).get("folder", ".")) / Path(value).expanduser()
        try:
            prompts = read_text(path, most=_MOST_OF_PROMPTS).splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"{value!r} is not a file of prompts that can be read ({reason}); expected a list "
                "of prompts, or the path of a text file with one a line"
            ) from None
        for number, prompt in enumerate(prompts, start=1):
            if not prompt.strip():
                raise ValueError(
                    f"{value}: line {number} is blank; expected a prompt on every line, or a list "
                    'in which "" is no prompt'
                )
        return prompts

    @field_validator("prompts")
    @classmethod
    def _some_prompts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError('there are none; expected at least one, where "" is no prompt')
        for prompt in value:
            check_text("the prompt", prompt, 20_000)
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _read_seeds(cls, value: Any) -> tuple[int, ...]:
        return read_seeds(value)

    @field_validator("base")
    @classmethod
    def _known_settings(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            check_setting_name(name)
        return {name: _plain(item) for name, item in value.items()}

    @field_validator("axes", "listed")
    @classmethod
    def _known_settings_or_label(cls, value: tuple[dict[str, Any], ...]) -> Any:
        for number, settings in enumerate(value):
            for name in settings:
                if name != "label":
                    try:
                        check_setting_name(name)
                    except ValueError as error:
                        raise ValueError(f"{number}: {error}") from None
        return tuple(map(_plain, value))

    @field_serializer("seeds")
    def _seeds_as_text(self, seeds: tuple[int, ...]) -> str:
        return seeds_text(seeds)

    @classmethod
    def from_yaml(cls, text: str, folder: str | Path = ".") -> Sweep:
        """The sweep that a YAML text describes.

        Args:
            text: The text.
            folder: What paths of prompts are relative to.

        Raises:
            SweepError: If it can't be understood; the message names the place.
        """
        try:
            data = read_yaml(text)
        except ValueError as error:
            raise SweepError(str(error)) from None
        if not isinstance(data, dict):
            raise SweepError("expected keys and values, such as `name: first`")
        try:
            return cls.model_validate(data, context={"folder": folder})
        except ValidationError as error:
            raise SweepError(_message(error)) from None


def read_sweep(path: str | Path) -> Sweep:
    """The sweep in a YAML file.

    Raises:
        SweepError: If it can't be read or understood; the message names the file and the place.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SweepError(f"{path}: no sweep can be read ({reason})") from None
    try:
        return Sweep.from_yaml(text, path.parent)
    except SweepError as error:
        raise SweepError(f"{path}: {error}") from None


def _plain(value: Any) -> Any:
    """A value with texts in place of guidances, so that it can be written to a file."""
    if isinstance(value, Guidance):
        return guidance_to_text(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _message(error: ValidationError) -> str:
    """The first mistake, as a line."""
    first, *others = error.errors(include_url=False)
    where = ".".join(map(str, first["loc"]))
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] not in ("value_error", "missing"):
        what = f"{what}; got {first['input']!r}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {what}{more}" if where else f"{what}{more}"
