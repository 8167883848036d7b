"""Settings that are published for the model of a run, where neither user nor image tells any."""

from __future__ import annotations

__all__ = ["advice_for", "advised_text", "with_published"]

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..models import available
from ..settings.text import join_settings, split_settings
from .generate_settings import GenerateSettings

if TYPE_CHECKING:
    from torch import nn

    from ..families.advice import Advice


def advice_for(denoiser: nn.Module) -> dict[str, Advice]:
    """What is published for a denoiser, by the names of methods."""
    from ..families import family_or_unknown

    return family_or_unknown(denoiser).advice(denoiser)


def with_published(
    settings: GenerateSettings,
    given: Mapping[str, Any],
    stored: Mapping[str, Any],
    advice: Mapping[str, Advice] | None = None,
) -> GenerateSettings:
    """The settings with what is published for the model, written out.

    Models of this package have settings of their own; see `suited`.

    Args:
        settings: The settings of the run.
        given: The settings of the command line; those that were left out are None.
        stored: The settings of the image of ``--from``, or nothing.
        advice: What is published for the model, if that is known; else the model is looked at.
    """
    if settings.model in available():
        return settings
    advice = _advice_for_model(settings.model) if advice is None else advice
    name, in_text = split_settings(given.get("method") or "")
    told = {key for key, value in given.items() if value is not None} | in_text.keys()
    found = advice.get(split_settings(settings.method)[0])
    if found is not None and not (stored and name in ("", _method_name(stored))):
        changes = {key: value for key, value in found.settings.items() if key not in told}
        settings = replace(settings, **changes)
    if given.get("stack") is not None:
        stack = tuple([advised_text(advice, text) for text in settings.stack])
        settings = replace(settings, stack=stack)
    return settings


def advised_text(advice: Mapping[str, Advice], text: str) -> str:
    """The text of a guidance with what is published for it, where neither says the same."""
    from ..methods import METHODS

    name, given = split_settings(text)
    found = advice.get(name)
    if found is None or name not in METHODS:
        return text
    own = METHODS[name]().to_dict()
    news = {key: value for key, value in found.settings.items() if value != own[key]}
    return join_settings(name, {**news, **given}) if news else text


def _method_name(stored: Mapping[str, Any]) -> str:
    return split_settings(stored.get("method", "seg"))[0]


def _advice_for_model(model: str) -> dict[str, Advice]:
    from .opening import open_shape

    try:
        denoiser, _ = open_shape(model)
    except ValueError:
        return {}  # whoever loads the model says what is wrong
    return advice_for(denoiser)
