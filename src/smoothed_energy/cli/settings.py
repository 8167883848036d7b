"""What ``generate`` was asked for: options, defaults, and what an image remembers of them."""

from __future__ import annotations

__all__ = ["DEFAULTS", "DEFAULT_MODEL", "Settings", "parse_size", "resolve_settings"]

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..settings.text import join_settings, split_settings
from .stored import check_stored

DEFAULT_MODEL = "avatars"

#: What is used where neither the command line nor ``--from`` says anything, by model. The entry
#: ``""`` is for every model that has no entry of its own.
DEFAULTS: dict[str, dict[str, Any]] = {
    "": {
        "blur": "gaussian:10",
        "scale": 3.0,
        "layers": "mid",
        "steps": "begin",
        "num_inference_steps": 30,
        "cfg": 5.0,
        "batch_size": 1,
    },
    "avatars": {
        "blur": "gaussian:inf",
        "scale": 0.7,
        "layers": "mid",
        "steps": "all",
        "num_inference_steps": 30,
        "cfg": 3.0,
        "batch_size": 8,
    },
}

#: The ControlNet that is used where none is named, by model.
CONTROLNETS = {"avatars": "canny"}

#: Classifier-free guidance is off without a prompt: there is no condition to strengthen.
CFG_WITHOUT_PROMPT = 1.0

DTYPES = ("auto", "float32", "float16", "bfloat16")

#: The largest seed of torch's random generators.
LAST_SEED = 2**64 - 1


@dataclass(frozen=True)
class Settings:
    """Everything that decides what ``generate`` draws.

    The names are those of the options. ``method`` is a text that may have settings without an
    option of their own; an option that the method does not have is None. ``size`` is height and
    width in pixels, None the model's own. ``control`` and ``canny`` are paths of pictures: of
    edges, or one whose edges are to be found. ``batch_size`` and ``device`` change the speed and
    not the picture.
    """

    model: str
    prompt: str
    negative_prompt: str
    method: str
    blur: str | None
    scale: float | str | None
    layers: str | None
    steps: str
    formulation: str | None
    stack: tuple[str, ...]
    cfg: float
    num_inference_steps: int
    seed: int
    count: int
    size: tuple[int, int] | None
    compare: bool
    dtype: str
    control: str | None = None
    canny: str | None = None
    controlnet: str | None = None
    control_scale: float = 1.0
    batch_size: int = 1
    device: str = "auto"

    @property
    def seeds(self) -> range:
        """One seed for each image."""
        return range(self.seed, self.seed + self.count)

    @property
    def is_guided(self) -> bool:
        """Whether any guidance acts."""
        return self.scale != 0 or bool(self.stack)

    @property
    def is_controlled(self) -> bool:
        """Whether a ControlNet takes part."""
        return self.control is not None or self.canny is not None

    def of_image(self, seed: int, *, guided: bool) -> Settings:
        """The settings that draw one image alone."""
        alone = replace(self, seed=seed, count=1, compare=False)
        return alone if guided else replace(alone, scale=0.0, stack=())

    def guidance_settings(self) -> dict[str, Any]:
        """The settings of the main guidance, as `guidance_from_dict` reads them."""
        name, settings = split_settings(self.method)
        options = {option: getattr(self, option) for option in _OPTIONS}
        own = {option: value for option, value in options.items() if value is not None}
        return {"method": name, **settings, **own}

    def to_dict(self) -> dict[str, Any]:
        """What an image should remember, as JSON values."""
        settings = asdict(self)
        del settings["batch_size"], settings["device"]
        if not self.is_controlled:
            for name in ("control", "canny", "controlnet", "control_scale"):
                del settings[name]
        return settings


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from ``HEIGHTxWIDTH``.

    Raises:
        ValueError: If the text is not a size, or diffusers' pipelines could not draw it.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip())
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) == 0 or size[0] % 8 or size[1] % 8:
        raise ValueError(
            f"--size {text}: expected HEIGHTxWIDTH in pixels, both multiples of 8, such as 768x512"
        )
    return size


def resolve_settings(given: Mapping[str, Any], stored: Mapping[str, Any]) -> Settings:
    """What is given on the command line, else what an image remembers, else the defaults.

    Args:
        given: The options of the command line; those that were left out are None.
        stored: The settings of the image of ``--from``, or nothing.

    Raises:
        ValueError: If an image's settings are not those of this program, or contradict the given.
    """
    check_stored(stored)
    chosen = {name: value for name, value in given.items() if value is not None}
    chosen = _with_method_settings(chosen)
    if split_settings(chosen.get("method", ""))[0] not in ("", _name(stored)):
        # What the image remembers was chosen for another method.
        stored = {name: value for name, value in stored.items() if name not in _OPTIONS}
    merged = {**stored, **chosen}

    for one, other in (("control", "canny"), ("canny", "control")):
        if chosen.get(one) and not chosen.get(other):
            merged.pop(other, None)  # another picture than the one that is remembered
    model = merged.get("model", DEFAULT_MODEL)
    merged["model"] = model
    merged.setdefault("prompt", "")
    if bool(merged["prompt"]) != bool(stored.get("prompt", "")) and "cfg" not in chosen:
        merged.pop("cfg", None)  # a prompt came or went, and with it the use of CFG
    if not merged["prompt"]:
        merged.setdefault("cfg", CFG_WITHOUT_PROMPT)
    merged = {**DEFAULTS.get(model, DEFAULTS[""]), **merged}
    merged = _with_method_defaults(merged, stored, chosen)
    for name, value in {
        "negative_prompt": "",
        "method": "seg",
        "stack": (),
        "formulation": "conditional",
        "seed": 0,
        "count": 1,
        "size": None,
        "compare": False,
        "dtype": "auto",
        "device": "auto",
        "control": None,
        "canny": None,
        "controlnet": None,
        "control_scale": 1.0,
    }.items():
        merged.setdefault(name, value)
    merged["stack"] = tuple(merged["stack"])
    merged["scale"] = _number_or_text(merged["scale"])
    if merged["controlnet"] is None and (merged["control"] or merged["canny"]):
        merged["controlnet"] = CONTROLNETS.get(model)
    if merged["size"] is not None:
        merged["size"] = (int(merged["size"][0]), int(merged["size"][1]))

    settings = Settings(**merged)
    _check(settings)
    return settings


#: Settings of a guidance that are options of their own.
_OPTIONS = ("blur", "scale", "layers", "steps", "formulation")


def _with_method_settings(chosen: dict[str, Any]) -> dict[str, Any]:
    """Options that stand in the text of ``--method`` as options, unless they are given, too."""
    if "method" not in chosen:
        return chosen
    name, settings = split_settings(chosen["method"])
    options = {key: settings.pop(key) for key in _OPTIONS if key in settings}
    return {**options, **chosen, "method": join_settings(name, settings)}


def _name(settings: Mapping[str, Any]) -> str:
    return split_settings(settings.get("method", "seg"))[0]


def _with_method_defaults(
    merged: dict[str, Any], stored: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings with None for those that the method does not have.

    The models' defaults are for SEG; other methods have their own, but for the steps.

    Raises:
        ValueError: If the method is unknown, or does not have a setting that was chosen.
    """
    if _name(merged) == "seg":
        return merged
    from ..methods import METHODS

    name = _name(merged)
    if name not in METHODS:
        raise ValueError(f"--method {name}: expected one of {', '.join(METHODS)}")
    usual = METHODS[name]().to_dict()
    found = dict(merged)
    for option in _OPTIONS:
        if option in usual:
            if option not in chosen and option not in stored and option != "steps":
                found[option] = usual[option]
        elif option in chosen:
            raise ValueError(
                f"--{option} {chosen[option]}: {name} has no such setting; it has "
                + ", ".join(key for key in usual if key != "method")
            )
        else:
            found[option] = None
    return found


def _number_or_text(value: Any) -> float | str | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _check(settings: Settings) -> None:
    if settings.seeds[-1] > LAST_SEED:
        count = "" if settings.count == 1 else f" with --count {settings.count}"
        raise ValueError(
            f"--seed {settings.seed}{count}: expected seeds of at most {LAST_SEED} (2**64 - 1)"
        )
    if settings.dtype not in DTYPES:
        raise ValueError(f"--dtype {settings.dtype}: expected one of {', '.join(DTYPES)}")
    # Pipelines do no CFG at scales up to 1; 0 is how distilled models are told so.
    if not (settings.cfg == 0 or 1 <= settings.cfg < float("inf")):
        raise ValueError(f"--cfg {settings.cfg:g}: expected a finite number >= 1 (1 or 0 is off)")
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
        raise ValueError(f"--control-scale {settings.control_scale}: expected a finite number >= 0")
    if settings.negative_prompt and settings.cfg <= 1:
        raise ValueError(
            f"--negative-prompt has no effect with --cfg {settings.cfg:g}; expected a --cfg above 1"
        )


def image_stem(settings: Settings) -> str:
    """How the files of a run begin: the prompt in a few words."""
    words = re.findall(r"[^\W_]+", settings.prompt.lower())
    stem = ""
    for word in words:
        if len(stem) + len(word) > 40:
            break
        stem = f"{stem}-{word}" if stem else word
    return stem or ("prompt" if settings.prompt else "no-prompt")


def output_paths(settings: Settings, folder: Path) -> dict[tuple[int, bool] | str, Path]:
    """Every file of a run: images by seed and whether guided, ``"edges"`` and ``"sheet"``."""
    stem = image_stem(settings)
    paths: dict[tuple[int, bool] | str, Path] = {}
    for seed in settings.seeds:
        if settings.compare:
            paths[seed, False] = folder / f"{stem}-seed{seed}-unguided.png"
            paths[seed, True] = folder / f"{stem}-seed{seed}-guided.png"
        else:
            paths[seed, settings.is_guided] = folder / f"{stem}-seed{seed}.png"
    if settings.canny:
        paths["edges"] = folder / f"{stem}-edges.png"
    if settings.compare:
        paths["sheet"] = folder / f"{stem}-compare.png"
    return paths
