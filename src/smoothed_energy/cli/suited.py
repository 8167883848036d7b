"""Settings of guidance that suit the models of this package, where a method's own do not.

Methods have the defaults of their sources, which were chosen for large models.
"""

from __future__ import annotations

__all__ = ["suited_settings", "suited_text"]

from typing import Any

from ..settings.text import join_settings, split_settings

#: By model and method; the model card of `avatars` says how they were found.
_SUITED: dict[str, dict[str, dict[str, Any]]] = {
    "avatars": {
        "pag": {"scale": 0.3},
        "sag": {"scale": 0.3},
        "erg": {"scale": 0.3},
        "slg": {"scale": 0.3, "layers": "m0"},
        "tpg": {"scale": 0.3, "layers": "mid"},
        "swg": {"scale": 0.3},
        "momentum": {"scale": 0.3},
    }
}


def suited_settings(model: str, method: str) -> dict[str, Any]:
    """Settings of a method that suit a model, where its own don't.

    Args:
        model: A model's name, folder or id.
        method: A method's name.
    """
    return dict(_SUITED.get(model, {}).get(method, {}))


def suited_text(model: str, text: str) -> str:
    """The text of a guidance with the settings that suit a model, where it does not say others."""
    name, given = split_settings(text)
    suited = suited_settings(model, name)
    return join_settings(name, {**suited, **given}) if suited else text
