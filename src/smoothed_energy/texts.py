"""Settings as text: a name and its settings, separated by semicolons."""

from __future__ import annotations

__all__ = ["join_settings", "split_settings"]

from collections.abc import Mapping


def split_settings(text: str) -> tuple[str, dict[str, float | str]]:
    """The name and the settings of a text such as `"pag; scale=2; layers=mid"`.

    Raises:
        ValueError: If a part is not `name=value`, or a name comes twice.
    """
    name, *parts = (part.strip() for part in text.split(";"))
    settings: dict[str, float | str] = {}
    for part in parts:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise ValueError(f"{part!r} in {text!r} is not a setting; expected name=value")
        if key in settings:
            raise ValueError(f"{key!r} is set twice in {text!r}")
        settings[key] = _number_or_text(value)
    return name, settings


def join_settings(name: str, settings: Mapping[str, object]) -> str:
    """The text that `split_settings` reads."""
    return "; ".join([name, *(f"{key}={value}" for key, value in settings.items())])


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
