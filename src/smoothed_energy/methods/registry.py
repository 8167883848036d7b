"""The registered methods by name, and guidance from settings and from text.

A text is a method's name and its settings, separated by semicolons:
`"seg; blur=gaussian:10; scale=3; layers=d0,mid"`.
"""

from __future__ import annotations

__all__ = [
    "METHODS",
    "as_guidances",
    "guidance_from_dict",
    "guidance_from_text",
    "guidance_to_text",
    "register",
]

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any, TypeVar

from ..guidance.cfg_rules.apg import AdaptiveProjectedGuidance
from ..guidance.cfg_rules.frequency import FrequencyDecoupledGuidance
from ..guidance.cfg_rules.interval import GuidanceInterval
from ..guidance.cfg_rules.magnitude import MagnitudeAwareGuidance
from ..guidance.cfg_rules.plus_plus import PlusPlusGuidance
from ..guidance.cfg_rules.tangential import TangentialDampingGuidance
from ..guidance.cfg_rules.zero_star import ZeroStarGuidance
from ..guidance.guidance import Guidance
from ..guidance.result_guidance import ResultGuidance
from ..guidance.softmax import softmax_free
from ..settings.text import join_settings, split_settings
from .autoguidance import Autoguidance
from .erg import EntropyRectifyingGuidance
from .higs import HistoryGuidedSampling
from .momentum import MomentumGuidance
from .nag import NormalizedAttentionGuidance
from .pag import PerturbedAttentionGuidance
from .pladis import SparseTextAttention
from .s2 import StochasticSelfGuidance
from .sag import SelfAttentionGuidance
from .seg import SmoothedEnergyGuidance
from .self_guidance import SelfGuidance
from .slg import SkipLayerGuidance
from .swg import SlidingWindowGuidance
from .tag import TangentialAmplifyingGuidance
from .tpg import TokenPerturbationGuidance
from .tsg import TimeStepGuidance

_AnyGuidance = TypeVar("_AnyGuidance", bound=Guidance)

_methods: dict[str, type[Guidance]] = {}

#: Method names to classes: a view of those that are registered.
METHODS: Mapping[str, type[Guidance]] = MappingProxyType(_methods)

# The names that the text form of a guidance can carry.
_NAME = re.compile(r"[A-Za-z0-9][\w-]*")


def register(cls: type[_AnyGuidance]) -> type[_AnyGuidance]:
    """Make a method known by its name: in texts, saved settings, guiders and the command line.

    Args:
        cls: The class of its guidance, with `method`, `about`, and a default for every setting. A
            class that was defined again, as when a notebook's cell runs twice, takes the place of
            its earlier self.

    Returns:
        The class, so that this can decorate it.

    Raises:
        TypeError: If it is no such class.
        ValueError: If another class has the name, or it can't stand in a text.
    """
    _check_class(cls)
    name = cls.method
    other = _methods.get(name)
    if other is not None and _full_name(other) != _full_name(cls):
        raise ValueError(
            f"{_full_name(cls)} and {_full_name(other)} are both called method={name!r}; expected "
            "a name of its own"
        )
    _methods[name] = cls
    has_layers = not (cls.limits_cfg or issubclass(cls, ResultGuidance))
    needs_no_softmax = has_layers and not cls.needs_softmax
    if needs_no_softmax and name not in softmax_free:
        softmax_free.append(name)
    return cls


def _check_class(cls: object) -> None:
    """Check that a class can be registered.

    Raises:
        TypeError: If it is no guidance whose instances can be made without arguments.
        ValueError: If its name can't stand in a text.
    """
    if not (isinstance(cls, type) and issubclass(cls, Guidance)):
        raise TypeError(f"{cls!r} is not a guidance; expected a subclass of Guidance")
    missing = [name for name in ("method", "about") if not hasattr(cls, name)]
    missing += sorted(cls.__abstractmethods__)
    if missing:
        raise TypeError(
            f"{_full_name(cls)} is not complete; expected a class that defines {', '.join(missing)}"
        )
    needed = [
        field.name
        for field in fields(cls)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]
    if needed:
        raise TypeError(
            f"{_full_name(cls)} has no default for {', '.join(needed)}; expected one for every "
            "setting, since texts leave them out"
        )
    if not isinstance(cls.method, str) or not _NAME.fullmatch(cls.method):
        raise ValueError(
            f"{_full_name(cls)} has method={cls.method!r}; expected letters, digits, - and _"
        )


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# In the order in which they are listed.
for _cls in (
    SmoothedEnergyGuidance,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    EntropyRectifyingGuidance,
    SkipLayerGuidance,
    StochasticSelfGuidance,
    TokenPerturbationGuidance,
    SlidingWindowGuidance,
    TimeStepGuidance,
    SelfGuidance,
    Autoguidance,
    NormalizedAttentionGuidance,
    SparseTextAttention,
    MomentumGuidance,
    HistoryGuidedSampling,
    TangentialAmplifyingGuidance,
    AdaptiveProjectedGuidance,
    ZeroStarGuidance,
    TangentialDampingGuidance,
    FrequencyDecoupledGuidance,
    MagnitudeAwareGuidance,
    PlusPlusGuidance,
    GuidanceInterval,
):
    register(_cls)


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
