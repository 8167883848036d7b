"""The registered families, and which of them a denoiser belongs to."""

from __future__ import annotations

__all__ = [
    "families",
    "family_of",
    "family_or_unknown",
    "forget_found",
    "known_parts",
    "note_found",
    "register",
]

from weakref import WeakKeyDictionary

from torch import nn

from ..denoisers.attention_layer import LayerError
from ..intercept.module_call import unwrap
from .base import Family
from .unknown import UnknownDenoiser

_families: dict[str, Family] = {}
#: What was found by looking at denoisers of no known class.
_found: WeakKeyDictionary[nn.Module, Family] = WeakKeyDictionary()


def register(family: Family) -> Family:
    """Make a family known: guidance then works for its denoisers.

    Args:
        family: An instance. It replaces an earlier one of the same name. Where two families know
            the same class, the one that was registered later is asked.

    Returns:
        The family.

    Raises:
        TypeError: If it is not a `Family`.
    """
    if not isinstance(family, Family):
        raise TypeError(f"{family!r} is not a Family; expected an instance of a subclass of it")
    _families.pop(family.name, None)
    _families[family.name] = family
    return family


def note_found(denoiser: nn.Module, family: Family) -> None:
    """Make known what looking at one denoiser, which no registered family knows, has found."""
    _found[denoiser] = family


def forget_found(denoiser: nn.Module) -> None:
    """Know no more of a denoiser than before somebody looked at it."""
    _found.pop(unwrap(denoiser), None)


def families() -> tuple[Family, ...]:
    """All known families."""
    return tuple(_families.values())


def known_parts() -> tuple[str, ...]:
    """The words that select layers, of all families."""
    return tuple(dict.fromkeys([part for family in families() for part in family.parts]))


def family_of(denoiser: nn.Module) -> Family:
    """The family of a denoiser, compiled or not.

    Classes of `diffusers` are known by their names; a class may also bring its family along, as
    `guidance_family`.

    Raises:
        LayerError: If none knows it.
    """
    denoiser = unwrap(denoiser)
    own = getattr(type(denoiser), "guidance_family", None)
    if isinstance(own, Family):
        return own
    # Names of all base classes, not classes: a denoiser of another library should get the same
    # answer whether or not that model was ever imported here.
    for base in type(denoiser).__mro__:
        for family in reversed(_families.values()):
            if base.__name__ in family.denoisers:
                return family
    if denoiser in _found:
        return _found[denoiser]
    known = ", ".join(name for family in families() for name in family.denoisers)
    raise LayerError(
        f"no self-attention layers are known for a {type(denoiser).__name__}; supported denoisers: "
        f"{known}; others can be registered, see docs/families.md; a guidance interval, sliding "
        "windows and autoguidance need no layers, and attach(..., guide_unknown=True) looks for "
        "some"
    )


def family_or_unknown(denoiser: nn.Module) -> Family:
    """The family of a denoiser, compiled or not, or the little that is known of any other."""
    try:
        return family_of(denoiser)
    except LayerError:
        return UnknownDenoiser(unwrap(denoiser))
