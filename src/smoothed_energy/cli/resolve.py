"""From options, an image's memory and defaults to the settings of a run."""

from __future__ import annotations

__all__ = ["read_options", "resolve_settings"]

from collections.abc import Mapping
from typing import Any

from ..settings.text import join_settings, split_settings
from .check_settings import check_settings
from .followed import is_kept
from .generate_settings import CFG_WITHOUT_PROMPT, DEFAULT_MODEL, OPTIONS, GenerateSettings
from .setting_kinds import check_texts
from .stored import check_stored
from .suited import suited_settings, suited_text

#: Settings of a guidance that are options of their own.
_OF_METHOD = tuple(name for name, option in OPTIONS.items() if option.is_of_method)


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the command line tells, None for those that were left out.

    Args:
        options: The options as Typer read them.

    Raises:
        ValueError: If one cannot be read.
    """
    read: dict[str, Any] = {}
    for name, value in options.items():
        check_texts(OPTIONS[name].flag(name), value)
        read[name] = None if value is None else OPTIONS[name].kind.from_option(value)
    return read


def resolve_settings(given: Mapping[str, Any], stored: Mapping[str, Any]) -> GenerateSettings:
    """What is given on the command line, else what an image remembers, else the defaults.

    Args:
        given: The settings of the command line; those that were left out are None.
        stored: The settings of the image of ``--from``, or nothing.

    Raises:
        ValueError: If an image's settings are not those of this program, or contradict the given.
    """
    check_stored(stored)
    chosen = {name: value for name, value in given.items() if value is not None}
    chosen = _with_method_settings(chosen)
    if split_settings(chosen.get("method", ""))[0] not in ("", _method_name(stored)):
        # What the image remembers was chosen for another method.
        stored = {name: value for name, value in stored.items() if name not in _OF_METHOD}
    merged = {**stored, **chosen}

    for one, other in (("control", "canny"), ("canny", "control")):
        if chosen.get(one) and not chosen.get(other):
            merged.pop(other, None)  # another picture than the one that is remembered
        elif merged.get(one) and not chosen.get(one) and not is_kept(merged[one]):
            raise ValueError(
                f"--from: the image followed the picture {merged[one]!r}, which is not kept in it; "
                "expected --control or --canny with that picture"
            )
    if merged.get("controlnet") is None:
        merged.pop("controlnet", None)
    prompt = merged.get("prompt", "")
    if bool(prompt) != bool(stored.get("prompt", "")) and "cfg" not in chosen:
        merged.pop("cfg", None)  # a prompt came or went, and with it the use of CFG
    if not prompt:
        merged.setdefault("cfg", CFG_WITHOUT_PROMPT)
    merged = {**_defaults(merged), **merged}
    merged = _with_method_defaults(merged, stored, chosen)
    if "stack" in chosen:
        # Written out, so that what an image remembers does not change with the defaults.
        merged["stack"] = [suited_text(merged["model"], text) for text in merged["stack"]]
    values: dict[str, Any] = {
        name: None if value is None else OPTIONS[name].kind.from_json(value)
        for name, value in merged.items()
    }
    settings = GenerateSettings(**values)
    check_settings(settings)
    if "control_scale" in chosen and not settings.is_controlled:
        raise ValueError(
            f"--control-scale {settings.control_scale:g} has nothing to act on; expected --control "
            "or --canny"
        )
    return settings


def _defaults(merged: dict[str, Any]) -> dict[str, Any]:
    """The default of each option, for the model and the pictures that were chosen."""
    model = merged.get("model", DEFAULT_MODEL)
    defaults = {name: option.default_for(model) for name, option in OPTIONS.items()}
    if not (merged.get("control") or merged.get("canny")):
        defaults["controlnet"] = None  # it would have nothing to follow
    return defaults


def _with_method_settings(chosen: dict[str, Any]) -> dict[str, Any]:
    """The options, with those in the text of ``--method`` that are not given on their own."""
    if "method" not in chosen:
        return chosen
    name, settings = split_settings(chosen["method"])
    options = {key: settings.pop(key) for key in _OF_METHOD if key in settings}
    return {**options, **chosen, "method": join_settings(name, settings)}


def _method_name(settings: Mapping[str, Any]) -> str:
    return split_settings(settings.get("method", "seg"))[0]


def _with_method_defaults(
    merged: dict[str, Any], stored: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings with the method's own defaults, and None where the method has no such setting.

    The options' defaults are for SEG; other methods have their own, but for the steps and for what
    suits a model better.

    Raises:
        ValueError: If the method is unknown, or does not have a setting that was chosen.
    """
    name = _method_name(merged)
    if name == "seg":
        return merged
    from ..guidance.result_guidance import ResultGuidance
    from ..methods import METHODS

    if name not in METHODS:
        raise ValueError(f"--method {name}: expected one of {', '.join(METHODS)}")
    # Rules for CFG act at all steps, unless told otherwise.
    own_steps = issubclass(METHODS[name], ResultGuidance)
    usual, suited = METHODS[name]().to_dict(), suited_settings(merged["model"], name)
    found = dict(merged)
    for option in _OF_METHOD:
        if option in usual:
            has_default = own_steps or option != "steps"
            if option not in chosen and option not in stored and has_default:
                found[option] = suited.get(option, usual[option])
        elif option in chosen:
            raise ValueError(
                f"--{option} {chosen[option]}: {name} has no such setting; it has "
                + ", ".join(key for key in usual if key != "method")
            )
        else:
            found[option] = None
    return found
