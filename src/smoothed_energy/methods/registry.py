"""All methods by name, and guidance from settings and from text.

A text is a method's name and its settings, separated by semicolons:
`"seg; blur=gaussian:10; scale=3; layers=d0,mid"`.
"""

from __future__ import annotations

__all__ = ["METHODS", "guidance_from_dict", "guidance_from_text", "guidance_to_text"]

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from ..guidance.attachable import Attachable
from ..guidance.cfg_rules.interval import GuidanceInterval
from ..settings.text import join_settings, split_settings
from .autoguidance import Autoguidance
from .erg import EntropyRectifyingGuidance
from .pag import PerturbedAttentionGuidance
from .sag import SelfAttentionGuidance
from .seg import SmoothedEnergyGuidance
from .slg import SkipLayerGuidance
from .swg import SlidingWindowGuidance
from .tpg import TokenPerturbationGuidance

#: Method names to classes.
METHODS: Mapping[str, type[Attachable]] = MappingProxyType(
    {
        cls.method: cls
        for cls in (
            SmoothedEnergyGuidance,
            PerturbedAttentionGuidance,
            SelfAttentionGuidance,
            EntropyRectifyingGuidance,
            SkipLayerGuidance,
            TokenPerturbationGuidance,
            SlidingWindowGuidance,
            Autoguidance,
            GuidanceInterval,
        )
    }
)


def _method(name: object) -> type[Attachable]:
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method={name!r} is not known; expected one of {', '.join(METHODS)}")
    return METHODS[name]


def guidance_from_dict(settings: Mapping[str, Any]) -> Attachable:
    """The guidance of any method that `Attachable.to_dict` described.

    Args:
        settings: The method's name under `"method"`, and its settings.

    Raises:
        ValueError: If the method is missing or unknown, or a setting is not one of its own.
    """
    return _method(settings.get("method")).from_dict(settings)


def guidance_from_text(text: str) -> Attachable:
    """The guidance that a text such as `"pag; scale=2; layers=mid"` names.

    Settings that are left out have their defaults.

    Raises:
        ValueError: If it is not understood, or a value is outside its set.
    """
    name, settings = split_settings(text)
    cls = _method(name)
    try:
        return cls.from_dict(settings)
    except TypeError as error:  # A number in place of a text.
        raise ValueError(f"{text!r}: {error}") from error


def guidance_to_text(guidance: Attachable) -> str:
    """The text of a guidance, settings that differ from the defaults only.

    Raises:
        LayerError: If its layers are a predicate, which has no text.
    """
    settings = guidance.to_dict()
    usual = type(guidance)().to_dict()
    names = [field.name for field in fields(guidance) if settings[field.name] != usual[field.name]]
    return join_settings(guidance.method, {name: settings[name] for name in names})
