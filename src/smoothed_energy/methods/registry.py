"""All methods by name, and guidance from settings and from text.

A text is a method's name and its settings, separated by semicolons:
`"seg; blur=gaussian:10; scale=3; layers=d0,mid"`.
"""

from __future__ import annotations

__all__ = [
    "METHODS",
    "WITHOUT_SOFTMAX",
    "as_guidances",
    "guidance_from_dict",
    "guidance_from_text",
    "guidance_to_text",
]

from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from ..guidance.cfg_rules.interval import GuidanceInterval
from ..guidance.guidance import Guidance
from ..guidance.softmax import softmax_free
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
METHODS: Mapping[str, type[Guidance]] = MappingProxyType(
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


#: Methods that work whatever kind of attention a layer has.
WITHOUT_SOFTMAX = ", ".join(
    name for name, cls in METHODS.items() if not (cls.needs_softmax or cls.limits_cfg)
)
softmax_free.append(WITHOUT_SOFTMAX)


def _method(name: object) -> type[Guidance]:
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method={name!r} is not known; expected one of {', '.join(METHODS)}")
    return METHODS[name]


def guidance_from_dict(settings: Mapping[str, Any]) -> Guidance:
    """The guidance of any method that `Guidance.to_dict` described.

    Args:
        settings: The method's name under `"method"`, and its settings.

    Raises:
        ValueError: If the method is missing or unknown, or a setting is not one of its own.
    """
    return _method(settings.get("method")).from_dict(settings)


def guidance_from_text(text: str) -> Guidance:
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


def guidance_to_text(guidance: Guidance) -> str:
    """The text of a guidance, settings that differ from the defaults only.

    Raises:
        LayerError: If its layers are a predicate, which has no text.
    """
    settings = guidance.to_dict()
    usual = type(guidance)().to_dict()
    names = [field.name for field in fields(guidance) if settings[field.name] != usual[field.name]]
    return join_settings(guidance.method, {name: settings[name] for name in names})


def as_guidances(value: Any) -> tuple[Guidance, ...]:
    """Guidances from one of their forms, or a list of these.

    Args:
        value: A text such as `"seg; scale=3; layers=mid"`, a dict, a guidance, or several of these.

    Raises:
        TypeError: If it is none of these.
        ValueError: If a text or a dict is not understood.
    """
    if isinstance(value, Guidance):
        return (value,)
    if isinstance(value, str):
        return (guidance_from_text(value),)
    if isinstance(value, Mapping):
        return (guidance_from_dict(value),)
    if isinstance(value, Sequence):
        return tuple([found for item in value for found in as_guidances(item)])
    raise TypeError(
        f"guidance={value!r} is none; expected a text such as 'seg; scale=3; layers=mid', a dict, "
        "a guidance, or a list of these"
    )
